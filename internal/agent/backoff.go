package agent

import "time"

// The longest pauses between tries. An app waits for its first files, so until
// then the tries are closer together.
const (
	firstPause    = 500 * time.Millisecond
	shortestPause = 50 * time.Millisecond
	longestStart  = 10 * time.Second
	longestLater  = 2 * time.Minute
	// longestRest bounds what a server may ask for of all that an agent does.
	longestRest = 5 * time.Minute
)

// backoff spaces out tries with full jitter: anything between nothing and a
// bound that doubles, so that thousands of agents whose Vault comes back spread
// themselves out.
type backoff struct{ tries int }

func (b *backoff) reset() { b.tries = 0 }

// next returns the pause before the next try, which starts no earlier than the
// server asked for: and not much later all at once, since it asks everyone for
// the same.
func (b *backoff) next(later bool, retryAfter time.Duration) time.Duration {
	longest := longestStart
	if later {
		longest = longestLater
	}
	bound := min(firstPause<<min(b.tries, 16), longest)
	b.tries++
	return max(shortestPause, retryAfter) + jitter(max(bound, retryAfter/2))
}

// giveRest leaves a Vault that is in trouble alone. There is one pause for the
// token and for secrets, whichever met the trouble: two that end at different
// times would double the calls to a Vault that is down, and the herd when it is
// back. Tokens and leases end meanwhile, so that what a maintenance page asks for
// is kept to within a bound.
func (a *Agent) giveRest(retryAfter time.Duration) time.Duration {
	wait := a.restBackoff.next(a.started, min(retryAfter, longestRest))
	a.rested = time.Now().Add(wait)
	return wait
}

// endRest is for a Vault that answers again.
func (a *Agent) endRest() {
	a.restBackoff.reset()
	a.rested = time.Time{}
}

// roundPause is how long no round is run after one that failed.
func (a *Agent) roundPause(o outcome) time.Duration {
	if o.everywhere {
		return a.giveRest(o.retryAfter)
	}
	return a.fetchBackoff.next(a.started, o.retryAfter)
}
