package render

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// pemBegin begins every PEM block (RFC 7468, section 2).
const pemBegin = "-----BEGIN "

// pems writes the PEM blocks of the keys, which are joined by "+", in their
// order. Each key holds a string or a list of strings with one or more blocks.
// Text between blocks is left out, and so is a block that repeats the one before
// it, as where a chain begins with the issuer that was named already.
func pems(f config.File, s *Secret, keys string) ([]byte, error) {
	var out, last []byte
	for key := range strings.SplitSeq(keys, "+") {
		v, err := value(f, s, key)
		if err != nil {
			return nil, err
		}
		wrong := func(found string) error {
			return plain(fmt.Sprintf("key %q of secret %q holds %s (PEM, or a list of it; format raw writes any key)", key, f.Secret, found))
		}
		parts, isList := v.([]any)
		if !isList {
			parts = []any{v}
		}
		if len(parts) == 0 {
			return nil, wrong("an empty list")
		}
		for i, part := range parts {
			at := ""
			if isList {
				at = fmt.Sprintf(" in entry %d of its list", i+1)
			}
			text, ok := part.(string)
			if !ok {
				return nil, wrong(kindOf(part) + at)
			}
			blocks, found := splitPEM(text)
			if found != "" {
				return nil, wrong(found + at)
			}
			for _, block := range blocks {
				if !bytes.Equal(block, last) {
					out = append(out, block...)
				}
				last = block
			}
		}
	}
	return out, nil
}

// splitPEM returns the blocks of a text, each with a final newline, or what
// there is instead.
func splitPEM(text string) (blocks [][]byte, found string) {
	begun := strings.Count(text, pemBegin)
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		blocks = append(blocks, pem.EncodeToMemory(block))
	}
	switch {
	case strings.TrimSpace(text) == "":
		return nil, "an empty string"
	case begun == 0:
		return nil, "a string that is no PEM"
	case len(blocks) < begun:
		return nil, "a damaged PEM block" // which pem.Decode skips
	}
	return blocks, ""
}

// kindOf names what a decoded JSON value is.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	}
	return "a number"
}
