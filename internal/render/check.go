// Package render turns secrets into the bytes of files: ready-made formats,
// and templates in the language of Vault Agent. The agent renders with it; the
// injector checks templates with the same function table, so that what is
// admitted is what the agent understands.
package render

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Check reports whether the agent can parse the file's template: a function it
// lacks or a syntax error comes back as
//
//	path "app.conf": line 3, column 14: function "nope" not defined
//
// Files without a template pass.
func Check(f config.File) error {
	if f.Template == "" {
		return nil
	}
	if _, err := parseTemplate(f.Template); err != nil {
		return fmt.Errorf("path %q: %w", f.Path, err)
	}
	return nil
}

// parseTemplate parses a template with the agent's functions and strict keys.
func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("").Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return nil, locate(text, err)
	}
	if err := inspect(t, text); err != nil {
		return nil, err
	}
	return t, nil
}

// parseError is how text/template words a syntax error: a name (empty here),
// a line, never a column.
var parseError = regexp.MustCompile(`(?s)^template: [^:]*:(\d+): (.*)$`)

// startedAt names the template, which is nameless, where an action began.
var startedAt = regexp.MustCompile(` started at :(\d+)`)

// namedToken finds the token that a message is about.
var namedToken = regexp.MustCompile(`^(?:function|undefined variable) "(.+?)"|\{\{(\w+)\}\}`)

// locateBudget bounds the bytes that locate parses again.
const locateBudget = 512 << 10

// locate adds the column to a syntax error. The parser counts lines only, so
// locate breaks the line at each place in turn: the error stays the same and
// moves to the next line for as long as the break is not past its token.
// Where that would take too long, the line alone is given.
func locate(text string, err error) error {
	line, message := splitParseError(err)
	if line == 0 {
		return err
	}
	column := 0
	lines := strings.SplitAfter(text, "\n")
	if line <= len(lines) {
		before := strings.Join(lines[:line-1], "")
		broken := lines[line-1]
		if len(broken)*len(text) <= locateBudget {
			column = findColumn(before, broken, strings.Join(lines[line:], ""), line, message)
		}
	}
	return errors.New(place(line, column) + ": " + message)
}

// place words a place; a column of 0 is not known.
func place(line, column int) string {
	if column == 0 {
		return fmt.Sprintf("line %d", line)
	}
	return fmt.Sprintf("line %d, column %d", line, column)
}

// findColumn returns the 1-based column, in bytes, of the token that the
// parser complains of, or 0.
func findColumn(before, broken, after string, line int, message string) int {
	for i := len(broken) - 1; i >= 0; i-- {
		_, err := template.New("").Funcs(functions).Parse(before + broken[:i] + "\n" + broken[i:] + after)
		if l, m := splitParseError(err); l == line+1 && m == message {
			// The parser may have looked one token ahead of the one it names.
			if named := namedToken.FindStringSubmatch(message); named != nil {
				token := named[1] + named[2]
				if j := strings.LastIndex(broken[:min(i+len(token), len(broken))], token); j >= 0 {
					return j + 1
				}
			}
			return i + 1
		}
	}
	return 0
}

// splitParseError returns line 0 for what is no syntax error.
func splitParseError(err error) (line int, message string) {
	if err == nil {
		return 0, ""
	}
	m := parseError.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, err.Error()
	}
	line, _ = strconv.Atoi(m[1])
	return line, startedAt.ReplaceAllString(m[2], " started on line $1")
}
