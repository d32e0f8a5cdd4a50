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
	assert_cleaned("\xc3\xbc \xe2\x82\xac \xf0\x9f\x92\xbe", "\xc3\xbc \xe2\x82\xac \xf0\x9f\x92\xbe");
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
	assert_cleaned("\xed\xa0\x80", "???"); /* half of a pair */
	assert_cleaned("\xf4\x90\x80\x80", "????"); /* beyond the last one */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_can_be_shown_stays),
		cmocka_unit_test(control_characters_go),
		cmocka_unit_test(what_is_no_utf8_goes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
