package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// A story prints the demo: chapters, commands, text and what was checked. On a
// terminal it has colours, unless NO_COLOR is set.
type story struct {
	out     io.Writer
	colours bool
	number  int
}

func newStory(f *os.File) *story {
	return &story{out: f, colours: term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""}
}

// The styles of a terminal, as SGR parameters.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (s *story) style(code, text string) string {
	if !s.colours {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *story) chapter(title string) {
	s.number++
	fmt.Fprintf(s.out, "\n%s\n\n", s.style(bold, fmt.Sprintf("%d  %s", s.number, title)))
}

func (s *story) command(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n     ")
	fmt.Fprintf(s.out, "   %s %s\n", s.style(dim, "$"), text)
}

func (s *story) line(format string, args ...any) {
	fmt.Fprintf(s.out, "   %s\n", fmt.Sprintf(format, args...))
}

// good says what has been checked.
func (s *story) good(format string, args ...any) {
	fmt.Fprintf(s.out, "   %s %s\n", s.style(green, "✓"), fmt.Sprintf(format, args...))
}

// code prints a text of its own, set off by a rule at its left.
func (s *story) code(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.out, "   %s %s", s.style(dim, "│"), line)
	}
	fmt.Fprintln(s.out)
}

// diff is code whose lines begin with "+" or "-".
func (s *story) diff(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "+"):
			line = s.style(green, line)
		case strings.HasPrefix(line, "-"):
			line = s.style(red, line)
		}
		fmt.Fprintf(s.out, "   %s %s\n", s.style(dim, "│"), line)
	}
	fmt.Fprintln(s.out)
}

func (s *story) end(text string) { fmt.Fprintf(s.out, "\n%s\n", text) }
