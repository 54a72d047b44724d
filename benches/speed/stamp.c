/* The service of the benchmark: its first instructions read the clock, then it writes what it read, and its pid, to
 * stdout and waits for ever. With ANSWER it is the one that a connection starts: it accepts it at the socket that it was
 * passed, says one byte and ends. No C library, so that nothing runs before it. Built by stamp.rs. */

#if defined(__x86_64__)
enum { SYS_WRITE = 1, SYS_PAUSE = 34, SYS_GETPID = 39, SYS_ACCEPT = 43, SYS_CLOCK_GETTIME = 228, SYS_EXIT_GROUP = 231 };

static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}

static void wait_for_ever(void)
{
	for (;;)
		call(SYS_PAUSE, 0, 0, 0);
}
#elif defined(__aarch64__)
enum { SYS_WRITE = 64, SYS_PPOLL = 73, SYS_EXIT_GROUP = 94, SYS_CLOCK_GETTIME = 113, SYS_GETPID = 172, SYS_ACCEPT = 202 };

static long call(long number, long a, long b, long c)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = 0;
	register long x4 __asm__("x4") = 0;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}

static void wait_for_ever(void)
{
	for (;;)
		call(SYS_PPOLL, 0, 0, 0);
}
#else
#error "the system calls of this machine are not known here"
#endif

#ifdef ANSWER
enum { PASSED = 3 };

void _start(void)
{
	long client = call(SYS_ACCEPT, PASSED, 0, 0);
	call(SYS_WRITE, client, (long)"!", 1);
	for (;;)
		call(SYS_EXIT_GROUP, 0, 0, 0);
}
#else
enum { CLOCK_MONOTONIC = 1, STDOUT = 1 };

/* As stamp.rs reads it. */
struct stamp {
	long seconds;
	long nanoseconds;
	long pid;
};

void _start(void)
{
	struct stamp stamp;
	call(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, (long)&stamp.seconds, 0);
	stamp.pid = call(SYS_GETPID, 0, 0, 0);
	call(SYS_WRITE, STDOUT, (long)&stamp, sizeof stamp);
	wait_for_ever();
}
#endif
