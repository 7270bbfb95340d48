/* The floor under a container start: what the kernel alone costs when a C program makes the same container as the zygote does. One static set-up, no parsing, no checks
 * beyond "it worked". Built and driven by bench/start.py.
 *
 * usage: start_floor LAYER BASE SECCOMP CAPS CGROUP HIERARCHY_MOUNTPOINT=OPTIONS ...
 * Each line on stdin is one run; each line on stdout is "EXECD_NS CLEANED_NS". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_HIERARCHIES 16
#define RDONLY_NOTHING (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)

static const char *layer, *base, *cgroup;
static struct { const char *mountpoint, *name, *options; } hierarchies[MAX_HIERARCHIES];
static int hierarchy_count, serial;
static struct sock_fprog seccomp_program;
static uint64_t capabilities;

#define must(what) do { if ((what) < 0) { fprintf(stderr, "start_floor: %s: %s\n", #what, strerror(errno)); _exit(1); } } while (0)

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    must(fd);
    must(write(fd, text, strlen(text)));
    close(fd);
}

static void cgroup_path(char *out, int i, const char *file)
{
    snprintf(out, 4096, "%s/%s/%d%s%s", hierarchies[i].mountpoint, cgroup, serial, *file ? "/" : "", file);
}

static void make_cgroups(void)
{
    static const char *devices[] = { "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm" };
    char path[4096];
    for (int i = 0; i < hierarchy_count; i++) {
        cgroup_path(path, i, "");
        must(mkdir(path, 0755));
        if (!strcmp(hierarchies[i].name, "cpu")) {
            cgroup_path(path, i, "cpu.shares");
            put(path, "512");
        } else if (!strcmp(hierarchies[i].name, "memory")) {
            cgroup_path(path, i, "memory.limit_in_bytes");
            put(path, "67108864");
        } else if (!strcmp(hierarchies[i].name, "pids")) {
            cgroup_path(path, i, "pids.max");
            put(path, "100");
        } else if (!strcmp(hierarchies[i].name, "devices")) {
            cgroup_path(path, i, "devices.deny");
            put(path, "a");
            cgroup_path(path, i, "devices.allow");
            for (size_t d = 0; d < sizeof devices / sizeof *devices; d++)
                put(path, devices[d]);
        }
    }
}

static void read_only(const char *path, int recursive)
{
    struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
    must(syscall(SYS_mount_setattr, AT_FDCWD, path, recursive ? AT_RECURSIVE : 0, &attr, sizeof attr));
}

static void mount_new(const char *type, const char *path, unsigned long flags, const char *data)
{
    mkdir(path, 0755);
    must(mount(type, path, type, flags, data));
}

static void make_mounts(void)
{
    static const struct { const char *path; int minor, major; } devices[] = { { "/dev/null", 3, 1 }, { "/dev/zero", 5, 1 }, { "/dev/full", 7, 1 }, { "/dev/random", 8, 1 }, { "/dev/urandom", 9, 1 }, { "/dev/tty", 0, 5 } };
    char path[256];
    const unsigned long nothing = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    mount_new("proc", "/proc", nothing, NULL);
    mount_new("tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        must(mknod(devices[i].path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)));
    must(symlink("/proc/self/fd", "/dev/fd"));
    must(symlink("/proc/self/fd/0", "/dev/stdin"));
    must(symlink("/proc/self/fd/1", "/dev/stdout"));
    must(symlink("/proc/self/fd/2", "/dev/stderr"));
    must(symlink("pts/ptmx", "/dev/ptmx"));
    mount_new("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount_new("tmpfs", "/dev/shm", nothing, "mode=1777,size=65536k");
    mount_new("mqueue", "/dev/mqueue", nothing, NULL);
    mount_new("sysfs", "/sys", nothing, NULL);
    read_only("/sys", 0);
    mount_new("tmpfs", "/sys/fs/cgroup", nothing, "mode=755");
    for (int i = 0; i < hierarchy_count; i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", hierarchies[i].name);
        mount_new("cgroup", path, nothing, hierarchies[i].options);
        read_only(path, 0);
    }
    read_only("/sys/fs/cgroup", 0);
}

static void hide_paths(void)
{
    static const char *fixed[] = { "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger" };
    static const char *masked[] = { "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/scsi", "/proc/sched_debug", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware" };
    struct stat s;
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (!mount(fixed[i], fixed[i], NULL, MS_BIND | MS_REC, NULL))
            read_only(fixed[i], 1);
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        if (stat(masked[i], &s))
            continue;
        if (S_ISDIR(s.st_mode))
            must(mount("tmpfs", masked[i], "tmpfs", RDONLY_NOTHING, "size=0k,nr_inodes=1"));
        else
            must(mount("/dev/null", masked[i], NULL, MS_BIND, NULL));
    }
}

static void become(void)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2] = { { capabilities, capabilities, 0 }, { capabilities >> 32, capabilities >> 32, 0 } };
    char *const args[] = { "true", NULL }, *const env[] = { "PATH=/bin", NULL };
    must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &seccomp_program));
    for (int c = 0; c <= 40; c++)
        if (!(capabilities >> c & 1) && prctl(PR_CAPBSET_READ, c, 0, 0, 0) == 1)
            must(prctl(PR_CAPBSET_DROP, c, 0, 0, 0));
    must(setgroups(0, NULL));
    must(syscall(SYS_setresgid, 0, 0, 0));
    must(syscall(SYS_setresuid, 0, 0, 0));
    must(syscall(SYS_capset, &header, data));
    execve("/bin/true", args, env);
    fprintf(stderr, "start_floor: execve: %s\n", strerror(errno));
    _exit(1);
}

static void child(int status_fd, const char *run)
{
    char path[4096], data[8192], byte;
    for (int i = 0; i < hierarchy_count; i++) {
        cgroup_path(path, i, "tasks");
        put(path, "0");
    }
    must(unshare(CLONE_NEWCGROUP));
    must(sethostname("bench", 5));
    snprintf(path, sizeof path, "%s/rootfs", run);
    snprintf(data, sizeof data, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work,volatile", layer, run, run);
    must(mount("overlay", path, "overlay", 0, data));
    must(chdir(path));
    must(syscall(SYS_pivot_root, ".", "."));
    must(umount2(".", MNT_DETACH));
    must(chdir("/"));
    make_mounts();
    hide_paths();
    setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 0);
    dup2(null, 1);
    must(syscall(SYS_close_range, 3, status_fd - 1, 0));
    must(syscall(SYS_close_range, status_fd + 1, ~0U, 0));
    must(read(status_fd, &byte, 1));
    become();
}

static void run_once(void)
{
    char run[2048], path[4096], byte;
    int pair[2], pidfd = -1;
    serial++;
    snprintf(run, sizeof run, "%s/%d", base, serial);
    int64_t begun = now_ns();
    must(mkdir(run, 0755));
    for (const char **p = (const char *[]){ "upper", "work", "rootfs", NULL }; *p; p++) {
        snprintf(path, sizeof path, "%s/%s", run, *p);
        must(mkdir(path, 0755));
    }
    make_cgroups();
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
    struct clone_args args = {
        .flags = CLONE_PIDFD | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS,
        .pidfd = (uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    must(pid);
    if (!pid)
        child(pair[1], run);
    close(pair[1]);
    must(send(pair[0], "g", 1, MSG_NOSIGNAL));
    if (read(pair[0], &byte, 1) != 0)
        exit(1);
    int64_t execd = now_ns();
    siginfo_t info;
    must(waitid(P_PID, pid, &info, WEXITED));
    if (info.si_code != CLD_EXITED || info.si_status) {
        fprintf(stderr, "start_floor: the container failed\n");
        exit(1);
    }
    for (int i = 0; i < hierarchy_count; i++) {
        cgroup_path(path, i, "");
        while (rmdir(path) && errno == EBUSY)
            usleep(100);
    }
    int64_t cleaned = now_ns();
    close(pair[0]);
    close(pidfd);
    printf("%lld %lld\n", (long long)(execd - begun), (long long)(cleaned - begun));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc < 7) {
        fprintf(stderr, "usage: start_floor LAYER BASE SECCOMP CAPS CGROUP HIERARCHY...\n");
        return 1;
    }
    layer = argv[1];
    base = argv[2];
    capabilities = strtoull(argv[4], NULL, 0);
    cgroup = argv[5];
    static struct sock_filter code[8192];
    int fd = open(argv[3], O_RDONLY);
    must(fd);
    ssize_t size = read(fd, code, sizeof code);
    must(size);
    close(fd);
    seccomp_program = (struct sock_fprog){ size / sizeof *code, code };
    for (int i = 6; i < argc && hierarchy_count < MAX_HIERARCHIES; i++) {
        char *mountpoint = strtok(argv[i], "|"), *name = strtok(NULL, "|"), *options = strtok(NULL, "|");
        hierarchies[hierarchy_count].mountpoint = mountpoint;
        hierarchies[hierarchy_count].name = name;
        hierarchies[hierarchy_count++].options = options;
    }
    umask(0);
    must(unshare(CLONE_NEWNS));
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    for (char line[16]; fgets(line, sizeof line, stdin);)
        run_once();
    return 0;
}
