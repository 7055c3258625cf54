package main

import (
	"context"
	"fmt"

	"github.com/latchkey-dev/latchkey/internal/mutate"
)

func annotations(_ context.Context, args []string, std streams) error {
	fs := newFlags("annotations", "annotations [-o markdown|json]\nPrints the annotations that pods can carry.", std)
	format := fs.String("o", "markdown", "markdown or json")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	text := []byte(mutate.AnnotationsMarkdown())
	switch *format {
	case "markdown":
	case "json":
		var err error
		if text, err = mutate.AnnotationsJSON(); err != nil {
			return err
		}
	default:
		return wrongUsage(fs, "-o is %q (markdown, json)", *format)
	}
	if _, err := std.out.Write(text); err != nil {
		return fmt.Errorf("writing annotations: %w", err)
	}
	return nil
}
