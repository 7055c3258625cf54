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
	"text/template/parse"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Options are what templates may see beside Vault's answers.
type Options struct {
	// Show is what the functions env and file may read: nothing by default.
	Show config.Show
}

// Check reports whether the agent can parse the file's template: a function it
// lacks or a syntax error comes back as
//
//	path "app.conf": line 3, column 14: function "nope" not defined
//
// Files without a template pass.
func Check(f config.File, o Options) error {
	if f.Template == "" {
		return nil
	}
	if _, err := parseTemplate(f.Template, o); err != nil {
		return fmt.Errorf("path %q: %w", f.Path, err)
	}
	return nil
}

// parsed is a template that may be executed once it has its functions.
type parsed struct {
	trees map[string]*parse.Tree
	// calls are the functions that it names, each with whether it was found.
	calls map[string]bool
}

// parseTemplate parses a template and finds what execution would refuse.
// Functions are looked up here rather than by the parser, which knows the line
// of an unknown one but not the column.
func parseTemplate(text string, o Options) (*parsed, error) {
	trees, err := parseText(text)
	if err != nil {
		return nil, locate(text, err)
	}
	p := &parsed{trees: trees, calls: make(map[string]bool)}
	if err := p.inspect(text, o); err != nil {
		return nil, err
	}
	return p, nil
}

func parseText(text string) (map[string]*parse.Tree, error) {
	trees := make(map[string]*parse.Tree)
	t := parse.New("")
	t.Mode = parse.SkipFuncCheck
	_, err := t.Parse(text, "", "", trees)
	return trees, err
}

// withFunctions makes a template of the trees. It gets no more functions than it
// calls, since text/template copies what it is given.
func (p *parsed) withFunctions(all func(name string) any) (*template.Template, error) {
	functions := make(template.FuncMap)
	for name := range p.calls {
		if f := all(name); f != nil {
			functions[name] = f
		}
	}
	t := template.New("").Funcs(functions)
	for name, tree := range p.trees {
		if _, err := t.AddParseTree(name, tree); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// parseError is how text/template words a syntax error: a name (empty here),
// a line, never a column.
var parseError = regexp.MustCompile(`(?s)^template: [^:]*:(\d+): (.*)$`)

// startedAt names the template, which is nameless, where an action began.
var startedAt = regexp.MustCompile(` started at :(\d+)`)

// inAction begins what the message says besides where an action began on another
// line than its mistake.
const inAction = " in action started"

// badCharacter finds the character that a message is about, which stands behind
// the token that the parser has begun.
var badCharacter = regexp.MustCompile(`^bad character U\+[0-9A-F]+ '(.)'`)

// namedToken finds the token that a message is about.
var namedToken = regexp.MustCompile(`^undefined variable "(.+?)"|\{\{(\w+)\}\}`)

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
	return errors.New(place(line, column) + ": " + message + hint(message))
}

// hint says what is allowed where text/template only says what is not.
func hint(message string) string {
	switch {
	case message == "unexpected EOF":
		return " ({{ end }} for each if, with, range, block and define)"
	case strings.HasPrefix(message, "bad character"):
		return " (a path in quotes, a key as in {{ index .Data.data \"user-name\" }})"
	}
	return ""
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
	words, _, _ := strings.Cut(message, inAction)
	for i := len(broken) - 1; i >= 0; i-- {
		_, err := parseText(before + broken[:i] + "\n" + broken[i:] + after)
		l, m := splitParseError(err)
		m, _, _ = strings.Cut(m, inAction) // which began before the break
		if l == line+1 && m == words {
			if bad := badCharacter.FindStringSubmatch(message); bad != nil {
				return i + strings.Index(broken[i:], bad[1]) + 1
			}
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
