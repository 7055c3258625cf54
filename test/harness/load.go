package harness

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

const (
	// plainEvery is how often a pod without our annotations is asked for.
	plainEvery = 10
	// maxInFlight bounds the requests under way: a machine that cannot keep up
	// is asked for fewer, since it would refuse what it gets to too late.
	// maxLoad is the time for which a load that nobody stops goes on.
	maxInFlight = 64
	maxLoad     = 5 * time.Minute
)

const (
	annotatedPod = `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"load-","annotations":{"latchkey.dev/inject":"true",` +
		`"latchkey.dev/role":"load","latchkey.dev/files":"[{path: a.env, secret: kv/load/a, format: env}]"}},` +
		`"spec":{"containers":[{"name":"app","image":"busybox:box"}]}}`
	plainPod = `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"load-"},"spec":{"containers":[{"name":"app","image":"busybox:box"}]}}`
)

// ports are the client's end of a connection in an error, which is another each time.
var ports = regexp.MustCompile(`(tcp [0-9.]+):[0-9]+->`)

// A Load asks the API server to create pods at a fixed rate, by dry runs that
// go all the way through admission and store nothing. It is open-loop: a slow
// answer does not slow down what is asked next, until very many are missing.
type Load struct {
	tb   testing.TB
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	counts Counts
}

// Counts are what became of the pods that were asked for.
type Counts struct {
	Injected   int // annotated, with the agent in them
	Plain      int // not annotated, and left alone
	Uninjected int // annotated, but without the agent: they would have run without their secrets
	Touched    int // not annotated, and with an agent all the same
	Skipped    int // never asked for, since too many were under way
	Refusals   []Refusal
	Latencies  []time.Duration // of all that were answered, sorted
	Took       time.Duration
}

// A Refusal is a pod that was not created.
type Refusal struct {
	After time.Duration // since the load began
	Plain bool          // it was not annotated
	Error string
}

// Load starts to ask for perSecond pods a second in the test's namespace. It
// ends with the test at the latest.
func (s *Space) Load(perSecond int) *Load {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), maxLoad)
	l := &Load{tb: s.TB, stop: cancel, done: make(chan struct{})}
	s.Cleanup(func() { cancel(); <-l.done })
	began := time.Now()
	// Requests outlast the load's end, which breaks none of them off.
	requests := context.WithoutCancel(ctx)
	go func() {
		defer close(l.done)
		var running sync.WaitGroup
		defer running.Wait()
		slots := make(chan struct{}, maxInFlight)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for asked := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for due := int(time.Since(began).Seconds() * float64(perSecond)); asked < due; asked++ {
				plain := asked%plainEvery == plainEvery-1
				select {
				case slots <- struct{}{}:
					running.Go(func() {
						defer func() { <-slots }()
						l.ask(requests, s, began, plain)
					})
				default:
					l.mu.Lock()
					l.counts.Skipped++
					l.mu.Unlock()
				}
			}
		}
	}()
	return l
}

// ask asks for one pod and notes what became of it.
func (l *Load) ask(ctx context.Context, s *Space, began time.Time, plain bool) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body := annotatedPod
	if plain {
		body = plainPod
	}
	start := time.Now()
	result := s.Kube.CoreV1().RESTClient().Post().Namespace(s.Name).Resource("pods").
		VersionedParams(&metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}, scheme.ParameterCodec).
		SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(ctx)
	took := time.Since(start)
	err := result.Error() // with what the API server said, which Raw does not read
	answer, _ := result.Raw()
	injected := bytes.Contains(answer, []byte(`"latchkey-agent"`))

	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.counts
	c.Latencies = append(c.Latencies, took)
	switch {
	case err != nil:
		c.Refusals = append(c.Refusals, Refusal{After: time.Since(began), Plain: plain, Error: err.Error()})
	case plain && injected:
		c.Touched++
	case plain:
		c.Plain++
	case injected:
		c.Injected++
	default:
		c.Uninjected++
	}
	c.Took = time.Since(began)
}

// Stop ends the load and returns what became of all that was asked for.
func (l *Load) Stop() Counts {
	l.tb.Helper()
	l.stop()
	<-l.done
	slices.Sort(l.counts.Latencies)
	slices.SortFunc(l.counts.Refusals, func(a, b Refusal) int { return int(a.After - b.After) })
	return l.counts
}

// Answered is how many pods were injected or left alone as they should be, so far.
func (l *Load) Answered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts.Injected + l.counts.Plain
}

// Window is the time between the first refusal and the last.
func (c Counts) Window() time.Duration {
	if len(c.Refusals) == 0 {
		return 0
	}
	return c.Refusals[len(c.Refusals)-1].After - c.Refusals[0].After
}

// String is one line of figures, and one for each kind of refusal.
func (c Counts) String() string {
	var b strings.Builder
	answered := len(c.Latencies)
	fmt.Fprintf(&b, "%d pods in %.1f s (%.0f/s, %d not annotated): %d refused, %d uninjected", answered, c.Took.Seconds(),
		float64(answered)/c.Took.Seconds(), c.Plain, len(c.Refusals), c.Uninjected)
	if answered > 0 {
		fmt.Fprintf(&b, "; latency p50 %s, p99 %s, max %s", c.Latencies[answered/2].Round(100*time.Microsecond),
			c.Latencies[answered*99/100].Round(100*time.Microsecond), c.Latencies[answered-1].Round(time.Millisecond))
	}
	if c.Skipped > 0 {
		fmt.Fprintf(&b, "; %d not asked for, since the machine was too busy", c.Skipped)
	}
	kinds := map[string]int{}
	for _, r := range c.Refusals {
		kinds[ports.ReplaceAllString(r.Error, "$1->")]++
	}
	for _, text := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(&b, "\n  %d × %s", kinds[text], text)
	}
	return b.String()
}
