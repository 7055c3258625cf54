package plan

import "fmt"

// rolesRoom is how much of the record its roles may take, in bytes. A ConfigMap
// holds a MiB (core/v1), and a record that cannot be stored stops everything,
// with it the replacement of the reviewer token.
const rolesRoom = 896 << 10

// room shares it out, so that no ConfigMap takes what others need.
type room struct {
	share int // of each source that is listed
	taken map[string]int
}

func newRoom(sources []string, recorded map[string]RecordedRole) *room {
	r := &room{share: rolesRoom / 2 / max(1, len(sources)), taken: make(map[string]int)}
	for _, s := range sources {
		r.taken[s] = 0
	}
	for name, role := range recorded {
		r.taken[role.Source] += cost(name, role.Source)
	}
	return r
}

// cost is what a role takes at most, in bytes: with two hashes.
func cost(name, source string) int { return len(name) + len(source) + 110 }

// take takes room for a role, if there is any beside what others have and what is
// kept for them.
func (r *room) take(name, source string) bool {
	left := rolesRoom - r.taken[source] - cost(name, source)
	for other, taken := range r.taken {
		if other != source && other != "" {
			left -= max(taken, r.share)
		}
	}
	if left < 0 {
		return false
	}
	r.taken[source] += cost(name, source)
	return true
}

// noRoom says why a role is not made.
func (c *computation) noRoom() string {
	return fmt.Sprintf("there is no room to note another role of this ConfigMap (%d KiB for all, half of them in equal parts for the %d that are listed): "+
		"take out roles, or give some a mount and an authconfig of their own", rolesRoom>>10, len(c.target.Sources))
}
