# SPDX-License-Identifier: LGPL-2.1-or-later
# Reads OpenMetrics text 1.0.0 strictly, as far as counters, gauges and histograms go: prints each
# sample as it came, and ends with 1 and the reason if anything is wrong. Any awk.

function bad(why) {
	printf "line %d: %s: %s\n", NR, why, $0 >"/dev/stderr"
	failed = 1
	exit 1
}

# The end of a family: a histogram's last series has its infinite bucket.
function end_series() {
	if (in_series && !has_inf) bad("a histogram without +Inf before this line")
	in_series = 0
}

# Checks `a="b",c="d"`, and leaves it without its le in rest, and that in le.
function read_labels(text,    name, value, seen_name) {
	rest = ""; le = ""; has_le = 0
	while (text != "") {
		if (!match(text, /^[a-zA-Z_][a-zA-Z0-9_]*="/)) bad("no label at: " text)
		name = substr(text, 1, RLENGTH - 2)
		text = substr(text, RLENGTH + 1)
		if (!match(text, /^([^"\\]|\\["\\n])*"/)) bad("the value of " name)
		value = substr(text, 1, RLENGTH - 1)
		text = substr(text, RLENGTH + 1)
		if (index(seen_name, "," name ",")) bad("twice the label " name)
		seen_name = seen_name "," name ","
		if (name == "le") { has_le = 1; le = value } else rest = rest "," name "=" value
		if (text == "") return
		if (substr(text, 1, 1) != "," || text == ",") bad("no comma behind " name)
		text = substr(text, 2)
	}
}

function is_number(text) { return text ~ /^[-+]?([0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?)$/ }

BEGIN { split("counter gauge histogram", list, " "); for (i in list) types[list[i]] = 1 }

ended { bad("something behind # EOF") }
$0 == "# EOF" { end_series(); ended = 1; next }
/^#/ {
	if (!match($0, /^# (TYPE|UNIT|HELP) [a-zA-Z_:][a-zA-Z0-9_:]* /))
		bad("a comment that is none")
	word = $2; name = $3; value = substr($0, RLENGTH + 1)
	if (value == "") bad("nothing said")
	if (name != family) {
		end_series()
		if (name in families) bad("a family that was there")
		families[family = name] = 1
		type = ""; nr_samples = 0
	}
	if (nr_samples) bad("said behind the samples")
	if ((name, word) in said) bad("said twice")
	said[name, word] = 1
	if (word == "TYPE") {
		if (!(value in types)) bad("the type " value)
		type = value
	}
	if (word == "UNIT" && substr(name, length(name) - length(value)) != "_" value)
		bad("the unit is not in the name")
	if (word == "HELP" && value ~ /\\[^n\\"]/) bad("an escape in the help")
	next
}
{
	if (!match($0, /^[a-zA-Z_:][a-zA-Z0-9_:]*/)) bad("no name")
	name = substr($0, 1, RLENGTH)
	text = substr($0, RLENGTH + 1)
	suffix = substr(name, length(family) + 1)
	if (family == "" || substr(name, 1, length(family)) != family)
		bad("of no family that was announced")
	if (!((family, "TYPE") in said) || !((family, "HELP") in said)) bad("no type or no help")
	if (!match(text, /^\{.*\} /)) bad("no labels, or no value")
	labels = substr(text, 2, RLENGTH - 3)
	number = substr(text, RLENGTH + 1)
	read_labels(labels)
	if (!is_number(number)) bad("no number")
	if ((name, labels) in samples) bad("a sample that was there")
	samples[name, labels] = 1
	nr_samples++
	if (type == "gauge" && suffix != "" || type == "counter" && suffix != "_total" ||
	    type == "histogram" && suffix !~ /^_(bucket|count|sum)$/) bad("the suffix of a " type)
	if (type != "gauge" && number + 0 < 0) bad("below 0")
	if (has_le != (suffix == "_bucket")) bad("le")
	if (suffix == "_bucket") {
		if (rest != series || !in_series) {
			end_series()
			in_series = 1; series = rest; has_inf = 0; last_le = last = -1
		}
		if (has_inf) bad("a bucket behind +Inf")
		if (le == "+Inf") has_inf = 1
		else if (!is_number(le) || le + 0 <= last_le) bad("the order of le")
		last_le = le + 0
		if (number + 0 < last) bad("fewer than in the bucket before")
		last = number + 0
		if (has_inf) total[rest] = number
	}
	if (suffix == "_count" && (!(rest in total) || total[rest] != number))
		bad("not the number of +Inf")
	print
}
END {
	if (failed) exit 1
	if (!ended) { print "no # EOF" >"/dev/stderr"; exit 1 }
}
