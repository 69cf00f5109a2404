/* Loaded into a QEMU that maps its memory file privately.
 *
 * To give a page of the guest back, QEMU punches a hole into the memory file and then drops its mapping of the page. Where
 * the file is mapped privately that is wrong: the file is an image that others stand on, or that this machine's own
 * pages lie on. Only the second half is right there: the copy that the machine has made of the page goes, and what
 * shows is the file's again. QEMU knows no difference (7.2), so the first half is left out here, for that file alone.
 */

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define EXPORTED __attribute__((visibility("default")))

int *__errno_location(void);

static long kernel(long number, long a, long b, long c, long d)
{
	long result;
	register long fourth __asm__("r10") = d;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}

static int is_memory(int fd)
{
	struct stat file, memory;
	const char *number = getenv("POLYVISOR_MEMORY_FD");

	if (!number || kernel(SYS_fstat, atoi(number), (long)&memory, 0, 0) < 0)
		return 0;
	if (kernel(SYS_fstat, fd, (long)&file, 0, 0) < 0)
		return 0;
	return file.st_ino == memory.st_ino && file.st_dev == memory.st_dev;
}

EXPORTED int fallocate(int fd, int mode, off_t offset, off_t length)
{
	long result;

	if ((mode & 2 /* FALLOC_FL_PUNCH_HOLE */) && is_memory(fd))
		return 0;
	result = kernel(SYS_fallocate, fd, mode, offset, length);
	if (result < 0) {
		*__errno_location() = (int)-result;
		return -1;
	}
	return 0;
}

EXPORTED int fallocate64(int fd, int mode, off_t offset, off_t length)
{
	return fallocate(fd, mode, offset, length);
}
