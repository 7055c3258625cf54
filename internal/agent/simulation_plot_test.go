package agent

import (
	"bytes"
	"fmt"
	"math"
	"time"
)

// The plot: one panel for each outage, one below the other; lengths in pixels.
const (
	plotWidth, panelHeight = 760, 190
	plotLeft, plotRight    = 60, 20
	plotTop, plotBottom    = 34, 34
	plotFrom, plotTo       = -outage - 3*time.Minute, 8 * time.Minute
	plotSpan               = 5 * time.Second
)

// drawOutages draws how many requests and logins there were each second.
func drawOutages(outages []*observation) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="11" fill="#333">`+"\n", plotWidth, panelHeight*len(outages)+8)
	fmt.Fprintf(&b, "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n")
	for i, o := range outages {
		fmt.Fprintf(&b, "<g transform=\"translate(0,%d)\">\n", i*panelHeight)
		o.draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (o *observation) draw(b *bytes.Buffer) {
	requests, logins := o.rates(all), o.rates(visit.isLogin)
	highest := 0.0
	for _, rate := range requests {
		highest = max(highest, rate)
	}
	step := niceStep(highest)
	top := step * math.Ceil(highest/step)
	bottom := float64(panelHeight - plotBottom)
	x := func(at time.Duration) float64 {
		return plotLeft + float64(at-plotFrom)/float64(plotTo-plotFrom)*(plotWidth-plotLeft-plotRight)
	}
	y := func(rate float64) float64 { return bottom - rate/top*(bottom-plotTop) }

	fmt.Fprintf(b, `<text x="%d" y="16" font-size="13">%s (%d agents)</text>`+"\n", plotLeft, o.title, o.agents)
	fmt.Fprintf(b, `<text x="%d" y="16" text-anchor="end"><tspan fill="#4477aa">requests/s</tspan>  <tspan fill="#cc3311">logins/s</tspan></text>`+"\n", plotWidth-plotRight)
	shade := func(from, to time.Duration, colour, label string) {
		fmt.Fprintf(b, `<rect x="%.0f" y="%d" width="%.0f" height="%.0f" fill="%s"/><text x="%.0f" y="%d">%s</text>`+"\n",
			x(from), plotTop, x(to)-x(from), bottom-plotTop, colour, x(from)+4, plotTop+12, label)
	}
	shade(-outage, 0, "#eee", "Vault is down")
	if o.limited > 0 {
		shade(0, o.limited, "#fdebc8", "429")
	}
	for rate := 0.0; rate <= top; rate += step {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.0f</text>`+"\n", plotLeft, y(rate), plotWidth-plotRight, plotLeft-6, y(rate)+4, rate)
	}
	for at := plotFrom.Truncate(2 * time.Minute); at <= plotTo; at += 2 * time.Minute {
		fmt.Fprintf(b, `<text x="%.1f" y="%.0f" text-anchor="middle">%+.0f min</text>`+"\n", x(at), bottom+16, at.Minutes())
	}
	for _, line := range []struct {
		rates  []float64
		colour string
	}{{requests, "#4477aa"}, {logins, "#cc3311"}} {
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="`, line.colour)
		for i, rate := range line.rates {
			fmt.Fprintf(b, "%.1f,%.1f ", x(plotFrom+time.Duration(i)*plotSpan), y(rate))
		}
		b.WriteString("\"/>\n")
	}
}

// rates are how many of the requests there were a second, in each span.
func (o *observation) rates(which func(visit) bool) []float64 {
	rates := make([]float64, (plotTo-plotFrom)/plotSpan)
	for _, at := range o.between(plotFrom, plotTo, which) {
		rates[(at-plotFrom)/plotSpan] += 1 / plotSpan.Seconds()
	}
	return rates
}

// niceStep is a round number that an axis up to highest has a handful of.
func niceStep(highest float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(max(highest, 1)/2)))
	for _, step := range []float64{1, 2, 5} {
		if highest/(step*unit) <= 5 {
			return step * unit
		}
	}
	return 10 * unit
}
