// Dashboard draws a Grafana dashboard as an SVG from what a Prometheus answers,
// for the documentation: it shows the panels that a Grafana would show.
//
//	go run ./dashboard -prometheus http://127.0.0.1:9090 -last 15m > dashboard.svg
//
// It knows panels of the types stat and timeseries, of a single unit each.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
)

func main() {
	file := flag.String("dashboard", "../deploy/webhook/dashboards/injector.json", "the dashboard's JSON `FILE`")
	address := flag.String("prometheus", "http://127.0.0.1:9090", "`URL` of a Prometheus")
	last := flag.Duration("last", 15*time.Minute, "the time to show, up to now")
	step := flag.Duration("step", 10*time.Second, "between two points")
	flag.Parse()
	if err := run(*file, *address, *last, *step); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func run(file, address string, last, step time.Duration) error {
	d, err := readDashboard(file)
	if err != nil {
		return err
	}
	client, err := api.NewClient(api.Config{Address: address})
	if err != nil {
		return fmt.Errorf("making a client of Prometheus: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	end := time.Now()
	within := promv1.Range{Start: end.Add(-last), End: end, Step: step}
	drawings := make([]drawing, len(d.Panels))
	for i, p := range d.Panels {
		if drawings[i], err = p.ask(ctx, promv1.NewAPI(client), within); err != nil {
			return fmt.Errorf("panel %q: %w", p.Title, err)
		}
	}
	return draw(os.Stdout, d, drawings, within)
}
