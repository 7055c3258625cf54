package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"
)

// row is one figure of both agents, and what ours must not exceed.
type row struct {
	what         string
	ours, theirs float64
	unit         string
	digits       int
	most         float64 // 0 is no such bar
	share        float64 // of theirs; 0 is no such bar
}

// report prints the comparison.
func report(out io.Writer, w work, ours, theirs *contender) error {
	var size [2]float64
	for i, c := range []*contender{ours, theirs} {
		info, err := os.Stat(c.program)
		if err != nil {
			return fmt.Errorf("measuring a binary: %w", err)
		}
		size[i] = float64(info.Size()) / 1e6
	}
	seconds := func(times []time.Duration) float64 { return median(times).Seconds() }
	of := func(c *contender, field func(usage) float64) float64 {
		var values []float64
		for _, u := range c.steady {
			values = append(values, field(u))
		}
		return median(values)
	}
	const fifth = 0.2
	rows := []row{
		{what: "binary, stripped", ours: size[0], theirs: size[1], unit: "MB", digits: 2, most: 11},
		{what: fmt.Sprintf("start to %d files", len(w.files)), ours: 1e3 * seconds(ours.start), theirs: 1e3 * seconds(theirs.start), unit: "ms", share: fifth},
		{what: "CPU time of the start", ours: 1e3 * seconds(ours.busy), theirs: 1e3 * seconds(theirs.busy), unit: "ms"},
		{what: "calls to Vault by a start", ours: float64(total(ours.calls)), theirs: float64(total(theirs.calls)), most: float64(w.calls)},
	}
	for _, r := range []struct {
		row
		field func(usage) float64
	}{
		{row{what: "VmRSS", unit: "MiB", digits: 1, most: 14}, func(u usage) float64 { return u.rss }},
		{row{what: "RssAnon", unit: "MiB", digits: 1, most: 4, share: fifth}, func(u usage) float64 { return u.anon }},
		{row{what: "threads"}, func(u usage) float64 { return float64(u.threads) }},
		{row{what: "open files"}, func(u usage) float64 { return float64(u.files) }},
	} {
		r.ours, r.theirs = of(ours, r.field), of(theirs, r.field)
		rows = append(rows, r.row)
	}
	rows = append(rows, row{what: "CPU time of an hour at rest", ours: seconds(ours.idle), theirs: seconds(theirs.idle), unit: "s", digits: 2})

	fmt.Fprintf(out, "%s, refreshed every %s: medians of %d starts and of %d agents at rest\n", w.what, refresh, starts, resting)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tlatchkey\tvault agent\tours to theirs\tbar\t")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%.0f %%\t%s\n", r.what, r.value(r.ours), r.value(r.theirs), 100*r.ours/r.theirs, r.verdict())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "calls of a start: latchkey %s; vault agent %s\nreads in %s at rest: latchkey %d, vault agent %d\n",
		describe(ours.calls), describe(theirs.calls), idle, ours.reads, theirs.reads)
	return err
}

func total(calls map[string]int) (n int) {
	for _, c := range calls {
		n += c
	}
	return n
}

func (r row) value(v float64) string {
	if r.unit == "" {
		return fmt.Sprintf("%.*f", r.digits, v)
	}
	return fmt.Sprintf("%.*f %s", r.digits, v, r.unit)
}

// verdict says what was asked for and whether it is so.
func (r row) verdict() string {
	text, met := "", true
	if r.most > 0 {
		text, met = "at most "+r.value(r.most), r.ours <= r.most
	}
	if r.share > 0 {
		if text != "" {
			text += " and "
		}
		text += fmt.Sprintf("at most %.0f %%", 100*r.share)
		met = met && r.ours <= r.share*r.theirs
	}
	switch {
	case text == "":
		return "none"
	case met:
		return text + ": met"
	}
	return text + ": MISSED"
}
