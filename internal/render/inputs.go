package render

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"strconv"
)

// inputs is a digest of all that one execution of a template was made of.
type inputs struct{ hash hash.Hash }

// add notes one input. The length before each part keeps inputs apart that
// would read the same in a row.
func (in *inputs) add(parts ...string) {
	if in.hash == nil {
		in.hash = sha256.New()
	}
	for _, part := range parts {
		io.WriteString(in.hash, strconv.Itoa(len(part))+":"+part)
	}
}

func (in *inputs) sum() string {
	in.add()
	return hex.EncodeToString(in.hash.Sum(nil))
}
