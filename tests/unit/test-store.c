/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making the memory store: its size, its emptiness, and taking all of it at once. */
#include "unit.h"

#include <errno.h>
#include <sys/stat.h>

#include "backend/store.h"

static uint64_t page_bytes(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

static void a_store_is_whole_pages_and_takes_no_memory(void **state)
{
	static const uint64_t sizes[] = { 512, 4096, 5000, 1 << 20, (1ULL << 40) + 512 };
	struct ub_err err = { 0 };
	struct stat st;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int fd = ub_store_create(sizes[i], false, &err);

		assert_true(fd >= 0);
		assert_int_equal(fstat(fd, &st), 0);
		/* the room for a bit a page is in front */
		assert_in_range((uint64_t)st.st_size, UB_STORE_DATA_AT + sizes[i],
				UB_STORE_DATA_AT + sizes[i] + page_bytes() - 1);
		assert_int_equal((uint64_t)st.st_size % page_bytes(), 0);
		assert_int_equal(st.st_blocks, 0);
		assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
		close(fd);
	}
}

static void a_new_store_is_zeroes(void **state)
{
	static char buf[65536], zeroes[65536];
	struct ub_err err = { 0 };
	int fd = ub_store_create(sizeof(buf), true, &err);

	(void)state;
	assert_true(fd >= 0);
	memset(buf, 'x', sizeof(buf));
	assert_int_equal(pread(fd, buf, sizeof(buf), (off_t)UB_STORE_DATA_AT), sizeof(buf));
	assert_memory_equal(buf, zeroes, sizeof(buf));
	close(fd);
}

static void prealloc_takes_all_of_it(void **state)
{
	struct ub_err err = { 0 };
	struct stat st;
	int fd = ub_store_create((1 << 20) + 512, true, &err);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= (1 << 20) + page_bytes());
	close(fd);
}

static void prealloc_of_too_much_is_refused_with_a_remedy(void **state)
{
	struct ub_err err = { 0 };
	unsigned before = unit_nr_fds();

	(void)state;
	assert_int_equal(ub_store_create(1ULL << 48, true, &err), -ENOMEM);
	unit_assert_says(err.text, "--prealloc: 256 TiB are wanted");
	unit_assert_says(err.text, "leave --prealloc out");
	assert_int_equal(unit_nr_fds(), before);
}

static void a_store_beyond_a_files_size_is_refused(void **state)
{
	struct ub_err err = { 0 };

	(void)state;
	assert_int_equal(ub_store_create(INT64_MAX, false, &err), -EFBIG);
	assert_int_equal(ub_store_create(UINT64_MAX, false, &err), -EFBIG);
	unit_assert_says(err.text, "more than a memory store can hold");
}

static void what_is_left_is_less_than_the_machine_has(void **state)
{
	uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * page_bytes();

	(void)state;
	assert_true(ub_store_memory_left() < all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_store_is_whole_pages_and_takes_no_memory),
		cmocka_unit_test(a_new_store_is_zeroes),
		cmocka_unit_test(prealloc_takes_all_of_it),
		cmocka_unit_test(prealloc_of_too_much_is_refused_with_a_remedy),
		cmocka_unit_test(a_store_beyond_a_files_size_is_refused),
		cmocka_unit_test(what_is_left_is_less_than_the_machine_has),
	};

	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
