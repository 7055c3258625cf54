package agent

import (
	"os"
	"strings"
	"unicode/utf8"
)

// maxWords is what the kubelet reads of a termination message, in bytes.
const maxWords = 4096

// LastWords writes why the agent ends, as one line, to where the kubelet takes
// a container's termination message from: `kubectl describe pod` shows it. It
// is no error if that cannot be written; the log has it too.
func LastWords(file string, reason error) {
	text := strings.ReplaceAll(strings.TrimSpace(reason.Error()), "\n", "; ")
	for len(text) > maxWords-1 {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	// The kubelet made the file, and the directory may be read-only.
	_ = os.WriteFile(file, []byte(text+"\n"), 0o644)
}
