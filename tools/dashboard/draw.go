package main

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Sizes in points. Grafana's grid has 24 columns.
const (
	column = vg.Length(40)
	row    = vg.Length(30)
	gap    = vg.Length(6)
	header = vg.Length(40)
)

var (
	ink        = color.NRGBA{0x24, 0x29, 0x2e, 0xff}
	faint      = color.NRGBA{0x6a, 0x73, 0x7d, 0xff}
	rule       = color.NRGBA{0xe4, 0xe7, 0xeb, 0xff}
	background = color.NRGBA{0xf4, 0xf5, 0xf7, 0xff}
	white      = color.NRGBA{0xff, 0xff, 0xff, 0xff}
	named      = map[string]color.Color{
		"green": color.NRGBA{0x2d, 0x8a, 0x4e, 0xff}, "orange": color.NRGBA{0xd9, 0x7a, 0x06, 0xff}, "red": color.NRGBA{0xc9, 0x2a, 0x2a, 0xff},
	}
	palette = []color.Color{
		color.NRGBA{0x1f, 0x77, 0xb4, 0xff}, color.NRGBA{0xd9, 0x7a, 0x06, 0xff}, color.NRGBA{0x2d, 0x8a, 0x4e, 0xff},
		color.NRGBA{0xc9, 0x2a, 0x2a, 0xff}, color.NRGBA{0x7b, 0x4f, 0xa6, 0xff}, color.NRGBA{0x8c, 0x56, 0x4b, 0xff},
	}
)

// draw writes the dashboard as an SVG.
func draw(w io.Writer, d *dashboard, drawings []drawing, within promv1.Range) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	bottom := 0
	for _, p := range d.Panels {
		bottom = max(bottom, p.GridPos.Y+p.GridPos.H)
	}
	width, height := 24*column+gap, vg.Length(bottom)*row+header
	image := vgsvg.New(width, height)
	all := vgdraw.New(image)
	fill(all, background)
	write(all, gap+4, height-header/2, 16, ink, text.XLeft, d.Title)
	write(all, width-4*gap, height-header/2, 11, faint, text.XRight,
		fmt.Sprintf("%.0f minutes", within.End.Sub(within.Start).Minutes()))
	for i, p := range d.Panels {
		left, top := vg.Length(p.GridPos.X)*column, height-header-vg.Length(p.GridPos.Y)*row
		frame := vgdraw.Canvas{Canvas: all, Rectangle: vg.Rectangle{
			Min: vg.Point{X: left + gap, Y: top - vg.Length(p.GridPos.H)*row + gap},
			Max: vg.Point{X: left + vg.Length(p.GridPos.W)*column, Y: top},
		}}
		fill(frame, white)
		write(frame, frame.Min.X+8, frame.Max.Y-12, 11, ink, text.XLeft, p.Title)
		inner := vgdraw.Crop(frame, 6, -12, 6, -24)
		if p.Type == "stat" {
			write(inner, inner.Center().X, inner.Center().Y, 30, p.color(drawings[i].value), text.XCenter, p.format(drawings[i].value))
			continue
		}
		if err := p.plot(drawings[i].lines, within, inner); err != nil {
			return fmt.Errorf("panel %q: %w", p.Title, err)
		}
	}
	var out bytes.Buffer
	if _, err := image.WriteTo(&out); err != nil {
		return fmt.Errorf("drawing: %w", err)
	}
	// Where that font is missing, one that looks like it.
	svg := bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))
	if _, err := w.Write(svg); err != nil {
		return fmt.Errorf("writing the picture: %w", err)
	}
	return nil
}

// plot draws lines over time.
func (p panel) plot(lines []line, within promv1.Range, c vgdraw.Canvas) error {
	chart := plot.New()
	chart.BackgroundColor = white
	chart.X.Min, chart.X.Max = float64(within.Start.Unix()), float64(within.End.Unix())
	chart.X.Tick.Marker = minutes{}
	chart.Y.Tick.Marker = few{p}
	for _, axis := range []*plot.Axis{&chart.X, &chart.Y} {
		axis.Tick.Label.Font.Size, axis.Tick.Label.Color = 9, faint
		axis.LineStyle.Width, axis.Tick.LineStyle.Width = 0, 0
	}
	chart.Legend.TextStyle.Font.Size, chart.Legend.TextStyle.Color = 9, ink
	chart.Legend.Top, chart.Legend.Left, chart.Legend.ThumbnailWidth = true, true, 12
	chart.Legend.Padding = 3
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = rule, rule
	chart.Add(grid)
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.name, b.name) })
	highest := 0.0
	for i, l := range lines {
		var points plotter.XYs
		for _, s := range l.points {
			if v := float64(s.Value); !math.IsNaN(v) {
				points = append(points, plotter.XY{X: float64(s.Timestamp.Unix()), Y: v})
				highest = max(highest, v)
			}
		}
		if len(points) == 0 {
			continue
		}
		drawn, err := plotter.NewLine(points)
		if err != nil {
			return fmt.Errorf("drawing %s: %w", l.name, err)
		}
		drawn.Color, drawn.Width = palette[i%len(palette)], 1.4
		chart.Add(drawn)
		chart.Legend.Add(l.name, drawn)
	}
	// From zero, with room for the legend above the lines.
	room := 1.15 + 0.13*float64(len(lines))
	chart.Y.Min, chart.Y.Max = 0, max(highest*room, 1e-9)
	chart.Draw(c)
	return nil
}

func fill(c vgdraw.Canvas, with color.Color) {
	c.FillPolygon(with, []vg.Point{c.Min, {X: c.Max.X, Y: c.Min.Y}, c.Max, {X: c.Min.X, Y: c.Max.Y}})
}

func write(c vgdraw.Canvas, x, y vg.Length, size font.Length, with color.Color, align text.XAlignment, what string) {
	f := plot.DefaultFont
	f.Size = size
	c.FillText(text.Style{Color: with, Font: f, XAlign: align, YAlign: text.YCenter, Handler: plot.DefaultTextHandler}, vg.Point{X: x, Y: y}, what)
}

// color is that of the highest threshold below the value.
func (p panel) color(value float64) color.Color {
	var name string
	for _, s := range p.FieldConfig.Defaults.Thresholds.Steps {
		if s.Value == nil || value >= *s.Value {
			name = s.Color
		}
	}
	if c, ok := named[name]; ok {
		return c
	}
	return ink
}

// format writes a value in the panel's unit.
func (p panel) format(v float64) string {
	short := func(v float64, digits int) string { return strconv.FormatFloat(v, 'g', digits, 64) }
	switch unit := p.FieldConfig.Defaults.Unit; {
	case p.FieldConfig.Defaults.Decimals != nil:
		return strconv.FormatFloat(v, 'f', *p.FieldConfig.Defaults.Decimals, 64)
	case v == 0:
		return "0"
	case unit == "bytes":
		return short(v/(1<<20), 3) + " MiB"
	case unit == "s" && v < 1e-3:
		return short(v*1e6, 3) + " µs"
	case unit == "s" && v < 1:
		return short(v*1e3, 3) + " ms"
	case unit == "s":
		return short(v, 3) + " s"
	case unit == "reqps":
		return short(v, 3) + "/s"
	}
	return short(v, 3)
}

// few are up to six ticks of an axis, round in the panel's unit.
type few struct{ panel }

func (f few) Ticks(_, high float64) []plot.Tick {
	unit := 1.0
	if f.FieldConfig.Defaults.Unit == "bytes" {
		unit = 1 << 20
	}
	least := math.Pow(10, math.Floor(math.Log10(high/unit/5)))
	if d := f.FieldConfig.Defaults.Decimals; d != nil {
		least = max(least, math.Pow(10, -float64(*d)))
	}
	size := 10 * least * unit
	for _, factor := range []float64{1, 2, 5} {
		if high <= 5*least*factor*unit {
			size = least * factor * unit
			break
		}
	}
	var ticks []plot.Tick
	for i := 0; float64(i)*size <= high; i++ {
		ticks = append(ticks, plot.Tick{Value: float64(i) * size, Label: f.format(float64(i) * size)})
	}
	return ticks
}

// minutes are ticks at whole minutes, about six of them.
type minutes struct{}

func (minutes) Ticks(low, high float64) []plot.Tick {
	every := max(1, math.Round((high-low)/60/6)) * 60
	var ticks []plot.Tick
	for at := math.Ceil(low/every) * every; at <= high; at += every {
		ticks = append(ticks, plot.Tick{Value: at, Label: time.Unix(int64(at), 0).UTC().Format("15:04")})
	}
	return ticks
}
