package render

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"unicode/utf16"
)

// properties writes sorted key=value lines that java.util.Properties.load reads
// back unchanged, whichever encoding it is told: everything beyond ASCII is an
// escape.
func properties(data map[string]any) ([]byte, error) {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(data)) {
		value, err := text(data[key])
		if err != nil {
			return nil, err
		}
		writeProperty(&b, key, true)
		b.WriteByte('=')
		writeProperty(&b, string(value), false)
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// writeProperty escapes as java.util.Properties.store does: in a key every
// space, in a value only the first character, since load skips white space
// before a value.
func writeProperty(b *bytes.Buffer, s string, key bool) {
	for i, r := range s {
		switch {
		case r == ' ':
			if key || i == 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(' ')
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\f':
			b.WriteString(`\f`)
		case r == '\\' || r == '=' || r == ':' || r == '#' || r == '!':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r >= ' ' && r <= '~':
			b.WriteRune(r)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(b, `\u%04X`, unit)
			}
		}
	}
}
