package main

import (
	"context"
	"fmt"

	"github.com/latchkey-dev/latchkey/internal/cli"
	"github.com/latchkey-dev/latchkey/internal/mutate"
)

func annotations(_ context.Context, args []string, std cli.Streams) error {
	fs := newFlags("annotations", "annotations [-o markdown|json]\nPrints the annotations that pods can carry.", std)
	format := fs.String("o", "markdown", "markdown or json")
	if err := cli.Parse(fs, args); err != nil {
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
		return cli.WrongUsage(fs, "-o is %q (markdown, json)", *format)
	}
	if _, err := std.Out.Write(text); err != nil {
		return fmt.Errorf("writing annotations: %w", err)
	}
	return nil
}
