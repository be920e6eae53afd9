/*
 * /init of the initrd for machines whose root is a disk.
 *
 * It does what a kernel with everything built in does by itself, told by the same command line:
 * makes the device of dm-mod.create=, waits for root=, mounts it, and becomes init=. Modules come
 * from the initrd, and stay visible in /lib/modules of the root.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/* linux/mount.h; the same numbers on every architecture */
#define SYS_OPEN_TREE 428
#define SYS_MOVE_MOUNT 429
#define OPEN_TREE_CLONE 1
#define MOVE_MOUNT_F_EMPTY_PATH 4

#define WAIT_MS 10000
#define STEP_MS 2

static char command_line[4096];

static void say(const char *level, const char *format, va_list arguments)
{
	char text[1024], line[1100];

	vsnprintf(text, sizeof text, format, arguments);
	snprintf(line, sizeof line, "%sroot: %s\n", level, text);
	int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (log < 0 || write(log, line, strlen(line)) < 0)
		fputs(line + strlen(level), stderr);
	if (log >= 0)
		close(log);
}

/* The end of PID 1 is a panic of the kernel, by which the host notices. */
static void die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say("<2>", format, arguments);
	va_end(arguments);
	exit(1);
}

static void warn(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say("<4>", format, arguments);
	va_end(arguments);
}

static void must_mount(const char *source, const char *target, const char *type,
		       unsigned long flags, const char *data)
{
	if (mount(source, target, type, flags, data) && errno != EBUSY)
		die("mounting %s (%s) on %s: %s", source, type ? type : "-", target,
		    strerror(errno));
}

/* Read a small file to its end; -1 when there is none. */
static ssize_t read_file(const char *path, char *buffer, size_t size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got, total = 0;

	if (file < 0)
		return -1;
	while ((size_t)total < size - 1 &&
	       (got = read(file, buffer + total, size - 1 - (size_t)total)) > 0)
		total += got;
	close(file);
	buffer[total] = 0;
	return total;
}

/* --- command line ------------------------------------------------------------------------- */

static struct {
	const char *root, *type, *flags, *init, *create;
	int writable;
} options = { .type = "ext4", .init = "/init" };

static void take(char *word)
{
	static const struct {
		const char *name;
		const char **value;
	} known[] = {
		{ "root=", &options.root },     { "rootfstype=", &options.type },
		{ "rootflags=", &options.flags }, { "init=", &options.init },
		{ "dm-mod.create=", &options.create }, { "dm_mod.create=", &options.create },
	};

	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		size_t length = strlen(known[i].name);
		if (strncmp(word, known[i].name, length) == 0) {
			*known[i].value = word + length;
			return;
		}
	}
	if (strcmp(word, "rw") == 0)
		options.writable = 1;
	else if (strcmp(word, "ro") == 0)
		options.writable = 0;
}

/* Words end at blanks outside of quotation marks, which are dropped; "--" ends what is ours. */
static void parse_command_line(void)
{
	char *in = command_line;

	while (*in) {
		while (*in == ' ' || *in == '\n')
			in++;
		char *word = in, *out = in;
		int quoted = 0;
		for (; *in && (quoted || (*in != ' ' && *in != '\n')); in++) {
			if (*in == '"')
				quoted = !quoted;
			else
				*out++ = *in;
		}
		if (*in)
			in++;
		*out = 0;
		if (strcmp(word, "--") == 0)
			return;
		take(word);
	}
}

/* --- modules ------------------------------------------------------------------------------ */

static void load_modules(const char *list)
{
	static char text[8192];
	char *rest = NULL;

	if (read_file(list, text, sizeof text) < 0)
		return; /* everything is built in */
	for (char *path = strtok_r(text, "\n", &rest); path; path = strtok_r(NULL, "\n", &rest)) {
		int file = open(path, O_RDONLY | O_CLOEXEC);
		if (file < 0 || (syscall(SYS_finit_module, file, "", 0) && errno != EEXIST))
			warn("module %s: %s", path, strerror(errno));
		if (file >= 0)
			close(file);
	}
}

/* --- device mapper (linux/dm-ioctl.h) ----------------------------------------------------- */

struct dm_header {
	uint32_t version[3], size, start, count;
	int32_t openers;
	uint32_t flags, event, padding;
	uint64_t device;
	char name[128], uuid[129], rest[7];
};

struct dm_target {
	uint64_t start, length;
	int32_t status;
	uint32_t next;
	char type[16];
};

struct dm_request {
	struct dm_header header;
	char data[8192];
};

#define DM_COMMAND(number) _IOWR(0xfd, number, struct dm_header)
#define DM_CREATE DM_COMMAND(3)
#define DM_REMOVE DM_COMMAND(4)
#define DM_RESUME DM_COMMAND(6)
#define DM_LOAD DM_COMMAND(9)
#define DM_READ_ONLY 1u
#define DM_PERSISTENT_MINOR 8u

static void wait_for_device(const char *path)
{
	struct stat status;
	const struct timespec step = { .tv_nsec = STEP_MS * 1000000L };

	for (int waited = 0; stat(path, &status) || !S_ISBLK(status.st_mode); waited += STEP_MS) {
		if (waited >= WAIT_MS)
			die("%s: no such block device after %d s", path, WAIT_MS / 1000);
		nanosleep(&step, NULL);
	}
}

/* Devices that a table names may be found a moment later than the table is read. */
static void wait_for_devices_in(const char *parameters)
{
	char copy[4096], *rest = NULL;

	snprintf(copy, sizeof copy, "%s", parameters);
	for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
		if (strncmp(word, "/dev/", 5) == 0)
			wait_for_device(word);
}

static void begin(struct dm_request *request, const char *name, const char *uuid)
{
	memset(request, 0, sizeof *request);
	request->header.version[0] = 4;
	request->header.size = sizeof *request;
	request->header.start = sizeof request->header;
	snprintf(request->header.name, sizeof request->header.name, "%s", name);
	if (uuid)
		snprintf(request->header.uuid, sizeof request->header.uuid, "%s", uuid);
}

static void command(int control, unsigned long number, struct dm_request *request,
		    const char *what)
{
	if (ioctl(control, (int)number, request))
		die("dm-mod.create: %s %s: %s", what, request->header.name, strerror(errno));
}

/* "start length type parameters" */
static char *add_target(struct dm_request *request, char *at, char *table)
{
	struct dm_target *target = (struct dm_target *)at;
	char *end = NULL, *type, *parameters;

	target->start = strtoull(table, &end, 10);
	target->length = strtoull(end, &end, 10);
	type = end + strspn(end, " ");
	parameters = type + strcspn(type, " ");
	if (!*type || !*parameters || parameters - type >= (ptrdiff_t)sizeof target->type)
		die("dm-mod.create: no table of a target: %s", table);
	memcpy(target->type, type, (size_t)(parameters - type));
	parameters += strspn(parameters, " ");
	size_t length = (sizeof *target + strlen(parameters) + 1 + 7) & ~(size_t)7;
	if (at + length > request->data + sizeof request->data)
		die("dm-mod.create: the table of %s is too long", request->header.name);
	wait_for_devices_in(parameters);
	strcpy(at + sizeof *target, parameters);
	target->next = (uint32_t)length;
	request->header.count++;
	return at + length;
}

/* "name,uuid,minor,flags,table[,table]..." */
static void create_device(int control, char *text)
{
	static struct dm_request request;
	char *name = strsep(&text, ","), *uuid = strsep(&text, ","), *number = strsep(&text, ",");
	char *flags = strsep(&text, ",");
	uint32_t read_only;

	if (!text || !*name)
		die("dm-mod.create: expected name,uuid,minor,flags,table");
	if (strcmp(flags, "ro") && strcmp(flags, "rw"))
		die("dm-mod.create: %s: flags are ro or rw, not %s", name, flags);
	read_only = strcmp(flags, "ro") == 0 ? DM_READ_ONLY : 0;
	begin(&request, name, uuid);
	if (*number) {
		request.header.flags = DM_PERSISTENT_MINOR;
		request.header.device = strtoull(number, NULL, 10);
	}
	command(control, DM_CREATE, &request, "creating");

	begin(&request, name, NULL);
	request.header.flags = read_only;
	char *at = request.data, *table;
	while ((table = strsep(&text, ",")))
		at = add_target(&request, at, table);
	command(control, DM_LOAD, &request, "loading the table of");

	begin(&request, name, NULL);
	request.header.flags = read_only;
	command(control, DM_RESUME, &request, "starting");
}

static void create_devices(const char *text)
{
	char *all = strdup(text), *device;
	int control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

	if (control < 0)
		die("/dev/mapper/control: %s", strerror(errno));
	while ((device = strsep(&all, ";")))
		create_device(control, device);
	close(control);
}

/* --- the root ----------------------------------------------------------------------------- */

/* Put the initrd's modules where the root has none for this kernel. */
static void show_modules(int modules)
{
	struct utsname system;
	char folder[128];

	if (modules < 0)
		return; /* the initrd has none, either */
	uname(&system);
	snprintf(folder, sizeof folder, "/lib/modules/%s", system.release);
	if (access(folder, F_OK) == 0)
		return;
	if (syscall(SYS_MOVE_MOUNT, modules, "", AT_FDCWD, "/lib/modules", MOVE_MOUNT_F_EMPTY_PATH))
		warn("modules of the initrd can't be seen in /lib/modules of the root: %s",
		     strerror(errno));
}

int main(int count, char **arguments)
{
	(void)count;
	must_mount("dev", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, NULL);
	must_mount("proc", "/proc", "proc", MS_NODEV | MS_NOSUID | MS_NOEXEC, NULL);
	if (read_file("/proc/cmdline", command_line, sizeof command_line) < 0)
		die("/proc/cmdline: %s", strerror(errno));
	parse_command_line();
	if (!options.root || strncmp(options.root, "/dev/", 5))
		die("root=%s: expected root=/dev/NAME on the kernel's command line",
		    options.root ? options.root : "");
	load_modules("/modules.root");
	if (options.create) {
		load_modules("/modules.verity");
		create_devices(options.create);
	}
	wait_for_device(options.root);
	must_mount(options.root, "/root", options.type, options.writable ? 0 : MS_RDONLY,
		   options.flags);
	int modules = (int)syscall(SYS_OPEN_TREE, AT_FDCWD, "/lib/modules",
				   OPEN_TREE_CLONE | O_CLOEXEC);
	umount2("/proc", MNT_DETACH);
	umount2("/dev", MNT_DETACH);
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		die("making %s the root: %s", options.root, strerror(errno));
	show_modules(modules);
	if (modules >= 0)
		close(modules);
	arguments[0] = (char *)options.init;
	execv(options.init, arguments);
	die("%s of %s: %s", options.init, options.root, strerror(errno));
}
