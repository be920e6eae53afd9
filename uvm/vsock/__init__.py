"""A vsock device in user space: the vhost-user back-end of QEMU's ``vhost-user-vsock-pci``.

The guest sees an ordinary virtio-vsock device; the host sees unix sockets in the convention of
Firecracker and cloud-hypervisor. One thread, one epoll, no kernel module, no root needed:

    python -m uvm.vsock --socket VHOST_USER_SOCKET --uds PATH [--guest-cid 3]

``docs/vsock-device.md`` has the picture, the convention and the limits. From the bottom up:

    packet        the 44-byte header of a virtio-vsock packet
    memory        the guest's memory, shared by file descriptor
    virtqueue     the split virtqueue, device side
    vhost_user    the messages QEMU sends about memory and queues
    backend       what the device does on each of these messages
    loop          epoll, timers, and descriptors that are never closed too early
    sender        the way to the guest: control packets first, then data
    connection    one stream: states, flow control, half-close
    device        the table of streams; reads what the guest sends
    listener      ``CONNECT <port>`` from the host
"""
