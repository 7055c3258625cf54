package agent

import (
	"os"
	"strings"
)

// maxWords is what the kubelet reads of a termination message, in bytes.
const maxWords = 4096

// LastWords writes why the agent ends, as one line, to where the kubelet takes
// a container's termination message from: `kubectl describe pod` shows it. It
// is no error if that cannot be written; the log has it too.
func LastWords(file string, reason error) {
	text := strings.ReplaceAll(strings.TrimSpace(reason.Error()), "\n", "; ")
	text = cut(text, maxWords-1)
	// The kubelet made the file, and the directory may be read-only.
	_ = os.WriteFile(file, []byte(text+"\n"), 0o644)
}

// cut shortens s to at most n bytes of whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
