/*
 * What PID 1 is once the machine is prepared: it waits, reaps, and tells how the end came.
 *
 *     init PRIMARY AGENT CHANNEL
 *
 * The interpreter that ran /init executes this in its own place, for it would keep megabytes for
 * nothing but waiting.
 *
 * PRIMARY: the process whose end is that of the machine; its status becomes ours.
 * AGENT: the process whose last words are wanted, or 0; often the same.
 * CHANNEL: a socket to which the agent has sent, once its log was set up, the descriptor of the log
 * and the one from which its own output can be read (gcs/init/supervisor.py). When it dies unasked,
 * killed, or by a crash in C code, nobody else is left to tell the host.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_OUTPUT = 16 * 1024,  /* of the agent's output, its end */
    HOST_TAKES = 1000,       /* milliseconds for the host to take the last words */
    LOG = 0,
    OUTPUT = 1,
};

/* An entry with every byte of the output escaped fits. */
static char entry[6 * MAX_OUTPUT + 1024];
static size_t length;

static void add(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int added = vsnprintf(entry + length, sizeof(entry) - length, format, arguments);
    va_end(arguments);
    if (added > 0 && length + (size_t)added < sizeof(entry)) {
        length += (size_t)added;
    }
}

/* As the inside of a JSON string. Bytes beyond ASCII may be no UTF-8, which a host does not forgive. */
static void add_escaped(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte == '"' || byte == '\\') {
            add("\\%c", byte);
        } else if (byte < 0x20 || byte == 0x7f) {
            add("\\u%04x", byte);
        } else if (byte < 0x80) {
            add("%c", byte);
        } else {
            add("\\ufffd");
        }
    }
}

/* To the console, and to the kernel's log, which the agent forwards to the host while it lives. */
static void report(const char *text) {
    dprintf(STDERR_FILENO, "%s\n", text);
    int kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
    if (kmsg >= 0) {
        dprintf(kmsg, "<3>init: %s\n", text);
        close(kmsg);
    }
}

/* Name of a process that has ended and is not reaped yet. */
static void read_name(pid_t pid, char *name, size_t size) {
    char path[32];
    snprintf(path, sizeof(path), "/proc/%d/comm", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? -1 : read(file, name, size - 1);
    if (file >= 0) {
        close(file);
    }
    if (got <= 0) {
        snprintf(name, size, "process %d", pid);
        return;
    }
    name[got] = '\0';
    name[strcspn(name, "\n")] = '\0';
}

/* Take what the agent has left in the channel; false when it left nothing. */
static bool take_descriptors(int channel, int descriptors[2], char *format) {
    union {
        char space[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec data = {.iov_base = format, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof(control.space),
    };
    if (recvmsg(channel, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1) {
        return false;
    }
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header == NULL || header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len != CMSG_LEN(2 * sizeof(int))) {
        return false;
    }
    memcpy(descriptors, CMSG_DATA(header), 2 * sizeof(int));
    return true;
}

/* The end of what can be read now, at most `size` bytes; returns how many. */
static size_t read_end(int descriptor, char *text, size_t size) {
    char chunk[4096];
    size_t have = 0;
    fcntl(descriptor, F_SETFL, O_NONBLOCK);
    for (ssize_t got; (got = read(descriptor, chunk, sizeof(chunk))) > 0;) {
        size_t fresh = (size_t)got;
        if (have + fresh > size) {
            size_t keep = size - fresh;
            memmove(text, text + have - keep, keep);
            have = keep;
        }
        memcpy(text + have, chunk, fresh);
        have += fresh;
    }
    return have;
}

static void send_entry(int log) {
    struct pollfd ready = {.fd = log, .events = POLLOUT};
    fcntl(log, F_SETFL, fcntl(log, F_GETFL) | O_NONBLOCK);
    for (size_t sent = 0; sent < length && poll(&ready, 1, HOST_TAKES) > 0;) {
        ssize_t count = write(log, entry + sent, length - sent);
        if (count < 0) {
            return;
        }
        sent += (size_t)count;
    }
}

/* Wait until the host has read to the end and closes, or does not in time. */
static void wait_for_host(int log) {
    struct pollfd closed = {.fd = log, .events = POLLIN};
    if (shutdown(log, SHUT_WR) == 0) {
        poll(&closed, 1, HOST_TAKES);
    }
}

/* Log how the agent ended, with what it had said last. */
static void tell_last_words(int channel, const char *text, bool signalled, int number, bool final) {
    static char output[MAX_OUTPUT];
    int descriptors[2];
    char format;
    if (!take_descriptors(channel, descriptors, &format)) {
        return;
    }
    size_t size = read_end(descriptors[OUTPUT], output, sizeof(output));
    struct timespec now;
    struct tm date;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &now);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &date));
    if (format == 'j') {
        add("{\"time\":\"%s.%09ldZ\",\"level\":\"fatal\",\"msg\":\"", stamp, now.tv_nsec);
        add_escaped(text, strlen(text));
        add("\",\"%s\":%d,\"output\":\"", signalled ? "signal" : "status", number);
        add_escaped(output, size);
        add("\"}\n");
    } else {
        add("time=%s.%09ldZ level=fatal msg=\"", stamp, now.tv_nsec);
        add_escaped(text, strlen(text));
        add("\" output=\"");
        add_escaped(output, size);
        add("\"\n");
    }
    send_entry(descriptors[LOG]);
    if (final) {
        wait_for_host(descriptors[LOG]);
    }
    close(descriptors[LOG]);
    close(descriptors[OUTPUT]);
}

int main(int count, char **arguments) {
    if (count != 4) {
        dprintf(STDERR_FILENO, "usage: init PRIMARY AGENT CHANNEL\n");
        return 1;
    }
    pid_t primary = atoi(arguments[1]);
    pid_t agent = atoi(arguments[2]);
    int channel = atoi(arguments[3]);
    for (;;) {
        siginfo_t ended;
        /* Left as a zombie at first, so that /proc still has its name. */
        if (waitid(P_ALL, 0, &ended, WEXITED | WNOWAIT) < 0) {
            int reason = errno;
            report("wait failed: the process of the machine is no child");
            return reason;
        }
        char name[32] = "";
        if (ended.si_pid == primary || ended.si_pid == agent) {
            read_name(ended.si_pid, name, sizeof(name));
        }
        int status;
        waitpid(ended.si_pid, &status, 0);
        if (name[0] == '\0' || status == 0) {
            if (ended.si_pid == primary) {
                return 0;
            }
            continue;
        }
        char text[128];
        bool signalled = WIFSIGNALED(status);
        int number = signalled ? WTERMSIG(status) : WEXITSTATUS(status);
        if (signalled) {
            snprintf(text, sizeof(text), "%s killed by signal %d (%s)", name, number,
                     strsignal(number));
        } else {
            snprintf(text, sizeof(text), "%s exited with status %d", name, number);
        }
        report(text);
        if (ended.si_pid == agent) {
            tell_last_words(channel, text, signalled, number, agent == primary);
        }
        if (ended.si_pid == primary) {
            return signalled ? 128 + number : number;
        }
    }
}
