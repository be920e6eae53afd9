#!/bin/sh
# For finding faults of a kernel: the agent, and what there is to see after its end, at port 2056.
export PATH="/usr/bin:/usr/local/bin:/bin:/root/bin:/sbin:/usr/sbin:/usr/local/sbin"
export HOME="/root"

tell() {
    /bin/vsockexec -o 2056 -e 2056 "$@"
}

tell echo "$0: starting the agent"
tell date
/init -e 1 /bin/vsockexec -o 2056 -e 109 /bin/gcs -v4 -log-format text -loglevel debug -logfile /tmp/gcs.log
tell echo "$0: the agent ended with status $?; the kernel's log:"
tell dmesg
sleep 2
tell sh -c 'ls -l /dev/se*'
