/*
 * ptrace(2) for a user-mode Linux that is older than its processor. Linux 6.1's gives each process 2,696 bytes for the
 * extended registers; where the processor has more of them (AMX), the host's kernel takes a whole set or none (EFAULT).
 * Here the set is made whole: the components that do not fit are in their initial state, as they are in every process
 * that never asked for them. Preloaded into linux.uml.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    STATE_COMPONENTS = 512,  /* offset of the bit map of components that are not in their initial state */
    FITTING = 0x3ff,         /* the components within 2,696 bytes */
};

static char whole[1 << 16];

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    struct iovec set = {whole, sizeof whole};
    if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE) {
        const struct iovec *part = data;
        uint64_t components;
        memcpy(whole, part->iov_base, part->iov_len);
        memcpy(&components, whole + STATE_COMPONENTS, sizeof components);
        components &= FITTING;
        memcpy(whole + STATE_COMPONENTS, &components, sizeof components);
        data = &set;
    }

    /* The system call stores what the library function returns: ptrace(2), "C library/kernel differences". */
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long word = 0;
        if (syscall(SYS_ptrace, request, pid, address, &word) < 0)
            return -1;
        errno = 0;
        return word;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
