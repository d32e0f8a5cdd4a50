/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes and numbers as people write them: what is read, what is refused and why, what is written.
 */
#include "unit.h"

#include <errno.h>

#include "base/size.h"

#define KIB 1024ULL
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

static void assert_size(const char *text, uint64_t want)
{
	struct ub_err err = { 0 };
	uint64_t bytes = 0;
	int ret = ub_size_parse(text, "--mem", &bytes, &err);

	if (ret || bytes != want)
		fail_msg("'%s': %d, %llu bytes instead of %llu (%s)", text, ret,
			 (unsigned long long)bytes, (unsigned long long)want, err.text);
}

static void assert_bad_size(const char *text, int code, const char *why)
{
	struct ub_err err = { 0 };
	uint64_t bytes = 4711;
	int ret = ub_size_parse(text, "--mem", &bytes, &err);

	if (ret != -code || err.code != code || bytes != 4711)
		fail_msg("'%s': %d instead of %d, %llu bytes", text, ret, -code,
			 (unsigned long long)bytes);
	unit_assert_says(err.text, "--mem: ");
	unit_assert_says(err.text, why);
	if (*text)
		unit_assert_says(err.text, text);
}

static void bytes_and_units_are_read(void **state)
{
	(void)state;
	assert_size("1", 1);
	assert_size("512", 512);
	assert_size("0512", 512);
	assert_size("512B", 512);
	assert_size("1K", KIB);
	assert_size("16M", 16 * MIB);
	assert_size("3G", 3 * GIB);
	assert_size("2T", 2 * TIB);
	assert_size("1P", KIB * TIB);
	assert_size("1E", KIB * KIB * TIB);
}

static void units_are_read_in_every_spelling(void **state)
{
	static const char *const one_mib[] = { "1M",   "1m",   "1MB",  "1mb",
					       "1MiB", "1mib", "1MIB", "1mB" };

	(void)state;
	for (size_t i = 0; i < sizeof(one_mib) / sizeof(one_mib[0]); i++)
		assert_size(one_mib[i], MIB);
	assert_size("7b", 7);
}

static void fractions_are_read_when_they_are_whole_bytes(void **state)
{
	(void)state;
	assert_size("1.5G", 3 * GIB / 2);
	assert_size("0.5K", 512);
	assert_size("1.25M", MIB + MIB / 4);
	assert_size("1.0", 1);
	assert_size("2.000000000K", 2 * KIB);
	assert_size("0.001953125M", 2048);
	assert_bad_size("1.5", EINVAL, "not a whole number of bytes");
	assert_bad_size("0.1K", EINVAL, "not a whole number of bytes");
	assert_bad_size("1.0000000001K", EINVAL, "more than nine decimals");
}

static void the_largest_size_is_8e_less_one(void **state)
{
	(void)state;
	assert_size("9223372036854775807", INT64_MAX);
	assert_size("7E", 7ULL << 60);
	assert_size("7.5E", 15ULL << 59);
	assert_bad_size("9223372036854775808", ERANGE, "too large");
	assert_bad_size("8E", ERANGE, "too large");
	assert_bad_size("16Q", EINVAL, "not a size");
	assert_bad_size("18446744073709551616", ERANGE, "too large");
	assert_bad_size("99999999999999999999999999", ERANGE, "too large");
	assert_bad_size("8388608T", ERANGE, "too large");
	assert_bad_size("17179869184G", ERANGE, "too large");	    /* 2^64 */
	assert_bad_size("18014398509481985K", ERANGE, "too large"); /* 1 KiB, if it wrapped */
}

static void what_is_no_size_is_refused(void **state)
{
	static const char *const bad[] = { "",	   "M",	     "x",    " 1M",  "1M ", "1 M",
					   "+1M",  "1MM",    "1Mi",  "1X",   "1.M", "1.",
					   ".5M",  "1.5.5M", "1,5M", "0x10", "1e6", "1BB",
					   "1BiB", "1KBB",   "1M/2", "1.-5M" };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_bad_size(bad[i], EINVAL, "not a size");
}

static void nothing_and_less_are_refused(void **state)
{
	(void)state;
	assert_bad_size("0", EINVAL, "is nothing");
	assert_bad_size("0M", EINVAL, "is nothing");
	assert_bad_size("0.0G", EINVAL, "is nothing");
	assert_bad_size("-1", EINVAL, "negative");
	assert_bad_size("-16M", EINVAL, "negative");
	assert_bad_size("-", EINVAL, "negative");
}

static void numbers_are_read_within_their_range(void **state)
{
	struct ub_err err = { 0 };
	uint64_t value = 0;

	(void)state;
	assert_int_equal(ub_number_parse("1", "--depth", 1, 4096, &value, &err), 0);
	assert_int_equal(value, 1);
	assert_int_equal(ub_number_parse("4096", "--depth", 1, 4096, &value, &err), 0);
	assert_int_equal(value, 4096);
	assert_int_equal(ub_number_parse("18446744073709551615", "n", 0, UINT64_MAX, &value, &err),
			 0);
	assert_true(value == UINT64_MAX);
	assert_int_equal(err.code, 0);
}

static void numbers_out_of_range_are_refused(void **state)
{
	static const char *const out[] = { "0", "4097", "18446744073709551616",
					   "99999999999999999999999999x" };
	struct ub_err err = { 0 };
	uint64_t value = 4711;

	(void)state;
	for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++) {
		assert_int_equal(ub_number_parse(out[i], "--depth", 1, 4096, &value, &err),
				 -ERANGE);
		unit_assert_says(err.text, "--depth: ");
		unit_assert_says(err.text, "from 1 to 4096");
	}
	assert_int_equal(value, 4711);
}

static void what_is_no_number_is_refused(void **state)
{
	static const char *const bad[] = { "", "x", "-1", "+1", "1x", " 1", "1 ", "1.5", "0x10" };
	struct ub_err err = { 0 };
	uint64_t value = 4711;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(ub_number_parse(bad[i], "--id", 0, 7, &value, &err), -EINVAL);
		unit_assert_says(err.text, "not a whole number");
	}
	assert_int_equal(value, 4711);
}

static void assert_format(uint64_t bytes, const char *want)
{
	char buf[32];

	assert_ptr_equal(ub_size_format(bytes, buf, sizeof(buf)), buf);
	assert_string_equal(buf, want);
}

static void sizes_are_written_with_one_decimal_at_most(void **state)
{
	(void)state;
	assert_format(0, "0 B");
	assert_format(512, "512 B");
	assert_format(1023, "1023 B");
	assert_format(1024, "1 KiB");
	assert_format(1536, "1.5 KiB");
	assert_format(16 * MIB, "16 MiB");
	assert_format(3 * GIB / 2, "1.5 GiB");
	assert_format(MIB - 1, "1023.9 KiB"); /* cut, never rounded up */
	assert_format(GIB + 1, "1 GiB");
	assert_format(INT64_MAX, "7.9 EiB");
	assert_format(UINT64_MAX, "15.9 EiB");
}

static void a_small_buffer_is_not_overrun(void **state)
{
	char buf[8] = "xxxxxxx";

	(void)state;
	ub_size_format(1023 * MIB, buf, 4);
	assert_string_equal(buf, "102");
	assert_memory_equal(buf + 4, "xxx", 4);
}

/* Every number that is written as whole units and one decimal reads back as itself. */
static void what_is_written_reads_back(void **state)
{
	static const char units[] = "BKMGTPE";
	uint64_t seed = 7;

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		unsigned shift = (unsigned)(unit_random(&seed) % 6);
		uint64_t half = shift ? unit_random(&seed) % 2 : 0;
		uint64_t whole = 1 + unit_random(&seed) % 1023;
		uint64_t bytes = (whole << (10 * shift)) + (half ? 1ULL << (10 * shift - 1) : 0);
		char text[32], buf[32], *space;

		ub_size_format(bytes, buf, sizeof(buf));
		space = strchr(buf, ' ');
		if (!space) {
			fail_msg("'%s' has no unit", buf);
			return;
		}
		memmove(space, space + 1, strlen(space));
		assert_size(buf, bytes);
		snprintf(text, sizeof(text), "%llu%s%c", (unsigned long long)whole,
			 half ? ".5" : "", units[shift]);
		assert_size(text, bytes);
		snprintf(text, sizeof(text), "%llu", (unsigned long long)bytes);
		assert_size(text, bytes);
	}
}

/* ---- durations ----------------------------------------------------------- */

static void assert_duration(const char *text, uint64_t want)
{
	struct ub_err err = { 0 };
	uint64_t ms = 4711;

	if (ub_duration_parse(text, "--wait", &ms, &err) != 0 || ms != want)
		fail_msg("'%s' is %llu ms instead of %llu (%s)", text, (unsigned long long)ms,
			 (unsigned long long)want, err.text);
}

static void durations_are_read_with_and_without_unit(void **state)
{
	(void)state;
	assert_duration("0", 0);
	assert_duration("30", 30000);
	assert_duration("1.5", 1500);
	assert_duration("1.5s", 1500);
	assert_duration("0.001", 1);
	assert_duration("200ms", 200);
	assert_duration("5m", 300000);
	assert_duration("5min", 300000);
	assert_duration("1.5h", 5400000);
	assert_duration("0.5ms", 0); /* cut to whole milliseconds */
	assert_duration("2400h", 8640000000ULL);
	assert_duration("8640000000ms", 8640000000ULL);
}

static void what_is_no_duration_is_refused(void **state)
{
	static const char *const bad[] = { "",
					   "s",
					   "-1",
					   "+1",
					   " 1",
					   "1 ",
					   "1 s",
					   "1.",
					   ".5",
					   "1.2.3",
					   "1d",
					   "1S",
					   "1sec",
					   "1e3",
					   "0x1",
					   "none",
					   "1.2345",
					   "1ss",
					   "99999999999999999999999",
					   "18446744073709551617ms" };
	struct ub_err err;
	uint64_t ms;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err.code = 0;
		if (ub_duration_parse(bad[i], "--wait", &ms, &err) >= 0)
			fail_msg("'%s' is a duration", bad[i]);
		unit_assert_says(err.text, "--wait: ");
		assert_true(err.code == EINVAL || err.code == ERANGE);
	}
	assert_int_equal(ub_duration_parse("2401h", "--wait", &ms, &err), -ERANGE);
	unit_assert_says(err.text, "hundred days");
}

/* Whatever it is, it is refused with words, or within its bounds. */
static void any_text_is_read_or_refused(void **state)
{
	static const char letters[] = "00123456789..kKmMgGtTpPeEbBiIsShHn-+ x";
	uint64_t seed = 99;

	(void)state;
	for (unsigned round = 0; round < 100000; round++) {
		struct ub_err err = { 0 };
		uint64_t value = 0;
		char text[24];
		size_t len = unit_random(&seed) % (sizeof(text) - 1);

		for (size_t i = 0; i < len; i++)
			text[i] = letters[unit_random(&seed) % (sizeof(letters) - 1)];
		text[len] = '\0';
		if (ub_size_parse(text, "a", &value, &err) == 0)
			assert_true(value > 0 && value <= INT64_MAX);
		else
			assert_true(err.code && err.text[0]);
		if (ub_duration_parse(text, "a", &value, &err) == 0)
			assert_true(value <= 8640000000ULL);
		if (ub_number_parse(text, "a", 5, 7, &value, &err) == 0)
			assert_in_range(value, 5, 7);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_and_units_are_read),
		cmocka_unit_test(units_are_read_in_every_spelling),
		cmocka_unit_test(fractions_are_read_when_they_are_whole_bytes),
		cmocka_unit_test(the_largest_size_is_8e_less_one),
		cmocka_unit_test(what_is_no_size_is_refused),
		cmocka_unit_test(nothing_and_less_are_refused),
		cmocka_unit_test(numbers_are_read_within_their_range),
		cmocka_unit_test(numbers_out_of_range_are_refused),
		cmocka_unit_test(what_is_no_number_is_refused),
		cmocka_unit_test(sizes_are_written_with_one_decimal_at_most),
		cmocka_unit_test(a_small_buffer_is_not_overrun),
		cmocka_unit_test(what_is_written_reads_back),
		cmocka_unit_test(durations_are_read_with_and_without_unit),
		cmocka_unit_test(what_is_no_duration_is_refused),
		cmocka_unit_test(any_text_is_read_or_refused),
	};

	return cmocka_run_group_tests_name("size", tests, NULL, NULL);
}
