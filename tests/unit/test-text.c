/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text of somebody else's is made fit to be shown. */
#include "unit.h"

#include "base/text.h"

static void assert_cleaned(const char *text, const char *expected)
{
	char buf[64];

	snprintf(buf, sizeof(buf), "%s", text);
	ub_text_clean(buf);
	assert_string_equal(buf, expected);
}

static void what_can_be_shown_stays(void **state)
{
	(void)state;
	assert_cleaned("", "");
	assert_cleaned("nbd://host/export ~!", "nbd://host/export ~!");
	assert_cleaned("\xc3\xbc \xe2\x82\xac \xf0\x9f\x92\xbe",
		       "\xc3\xbc \xe2\x82\xac \xf0\x9f\x92\xbe");
}

static void control_characters_go(void **state)
{
	(void)state;
	assert_cleaned("a\033[2Jb\nc\td\x7f", "a?[2Jb?c?d?");
	assert_cleaned("\xc2\x9b[", "??["); /* a control sequence's begin in one character */
}

static void what_is_no_utf8_goes(void **state)
{
	(void)state;
	assert_cleaned("caf\xe9", "caf?");
	assert_cleaned("\x80\xff", "??");
	assert_cleaned("cut \xe2\x82", "cut ??");
	assert_cleaned("\xc0\xaf\xe0\x80\xaf", "?????"); /* longer than need be */
	assert_cleaned("\xed\xa0\x80", "???");		 /* half of a pair */
	assert_cleaned("\xf4\x90\x80\x80", "????");	 /* beyond the last one */
}

static void bytes_survive_as_digits(void **state)
{
	static const char *const texts[] = { "", "a word", "\xff\x80 no UTF-8", "\n\t\x01" };

	(void)state;
	for (size_t n = 0; n < sizeof(texts) / sizeof(texts[0]); n++) {
		char *hex = ub_text_to_hex(texts[n]), *back;

		assert_non_null(hex);
		assert_int_equal(strlen(hex), 2 * strlen(texts[n]));
		back = ub_text_from_hex(hex);
		assert_string_equal(back, texts[n]);
		free(hex);
		free(back);
	}
	assert_null(ub_text_from_hex("0"));
	assert_null(ub_text_from_hex("0g"));
	assert_null(ub_text_from_hex("FF"));
}

static void a_list_is_one_line(void **state)
{
	struct ub_text_list list = { .len = 0 };

	(void)state;
	ub_text_list_add(&list, "%s", "");
	assert_int_equal(list.len, 0);
	ub_text_list_add(&list, "it has %u", 5);
	ub_text_list_add(&list, "no %s", "more");
	assert_string_equal(list.text, "it has 5; no more");
	assert_int_equal(list.len, strlen(list.text));
}

static void a_list_that_is_full_is_cut(void **state)
{
	struct ub_text_list list;
	char long_text[sizeof(list.text) + 50];

	(void)state;
	memset(long_text, 'x', sizeof(long_text));
	long_text[sizeof(long_text) - 1] = 0;
	for (size_t first = sizeof(list.text) - 6; first < sizeof(long_text); first++) {
		list.len = 0;
		ub_text_list_add(&list, "%.*s", (int)first, long_text);
		for (int i = 0; i < 5; i++)
			ub_text_list_add(&list, "and %d", i);
		assert_int_equal(list.len, sizeof(list.text) - 1);
		assert_int_equal(strlen(list.text), list.len);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_can_be_shown_stays),
		cmocka_unit_test(control_characters_go),
		cmocka_unit_test(what_is_no_utf8_goes),
		cmocka_unit_test(bytes_survive_as_digits),
		cmocka_unit_test(a_list_is_one_line),
		cmocka_unit_test(a_list_that_is_full_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
