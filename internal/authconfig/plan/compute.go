package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
)

// Compute says what is to be done so that what is observed becomes the target.
// What the record does not call ours is neither changed nor deleted, unless it
// is wanted and the target says to adopt it. A record about another mount, or
// another Vault, calls nothing ours.
func Compute(t Target, o Observed, r Record) Plan {
	c := computation{target: t, observed: o, plan: Plan{
		Cluster: o.Cluster, Mount: t.Mount, Type: t.Type, Tune: t.Tune, Record: r.Clone(), Problems: t.Roles.Problems,
	}}
	if c.mount() {
		c.tune()
		if !o.RolesUnknown {
			c.config()
			c.roles()
		} else if !c.fresh && o.Config != nil {
			// The reviewer token has to be replaced in time all the same.
			c.config()
		}
	}
	c.plan.sort()
	return c.plan
}

type computation struct {
	target   Target
	observed Observed
	plan     Plan
	fresh    bool // the mount is not there yet, or was adopted just now
	room     *room
	full     map[string]bool // sources for whose roles there is no room
}

func (c *computation) step(s Step) { c.plan.Steps = append(c.plan.Steps, s) }

func (c *computation) refuse(r Refusal) { c.plan.Refused = append(c.plan.Refused, r) }

// mount decides whose the mount is, and reports whether anything may happen to it.
func (c *computation) mount() bool {
	t, o, record := c.target, c.observed, &c.plan.Record
	here := record.VaultCluster == o.Cluster && record.Mount == t.Mount
	begin := func(r Record) {
		r.Version, r.VaultCluster, r.Mount = RecordVersion, o.Cluster, t.Mount
		// What is known of the cluster's keys and Secrets holds at any mount, but
		// nothing is proven at this one.
		r.Reviewer = record.Reviewer
		r.Reviewer.Mode = ""
		*record = r
		c.fresh = true
	}
	path := "auth/" + t.Mount
	switch {
	case o.Mount == nil && o.InTheWay != "":
		c.refuse(Refusal{Kind: KindMount, Name: t.Mount, Text: fmt.Sprintf(
			"%s cannot be made, since Vault lets no mount lie below another, and there is auth/%s: choose another mount.path, or move that one away with vault auth move", path, o.InTheWay)})
		return false
	case o.Mount == nil:
		s := Step{Verb: Create, Kind: KindMount, Name: t.Mount, After: t.Tune.Fields()}
		s.After["type"] = t.Type
		if here && record.Accessor != "" {
			s.Drift, s.Why = true, "it was ours and is gone"
			// All else is kept until there is another: this answer may be one of
			// before, or of something between here and Vault.
			record.Creating = true
		} else {
			begin(Record{Creating: true})
		}
		c.step(s)
	case o.Mount.Type != t.Type:
		c.refuse(Refusal{Kind: KindMount, Name: t.Mount, Text: fmt.Sprintf(
			"%s is a mount of type %s, and %s is wanted; it is left alone: choose another mount.path, or move it away with vault auth move", path, o.Mount.Type, t.Type)})
		return false
	case here && record.Accessor == o.Mount.Accessor && record.Version == RecordVersion:
		record.Creating = false
	case here && record.Creating && o.Config == nil:
		// A run ended between making it and noting its accessor.
		record.Made(o.Mount.Accessor)
	case t.Adopt:
		c.step(Step{Verb: Adopt, Kind: KindMount, Name: t.Mount, Why: "somebody else made it"})
		begin(Record{Accessor: o.Mount.Accessor})
	case record.Mount == t.Mount && record.Accessor == o.Mount.Accessor:
		c.refuse(Refusal{Kind: KindMount, Name: t.Mount, Text: fmt.Sprintf(
			"%s was made by this authconfig in the Vault of cluster id %s, and this one is %s; it is left alone: set mount.adopt to take it over, as after a failover", path, record.VaultCluster, o.Cluster)})
		return false
	default:
		c.refuse(Refusal{Kind: KindMount, Name: t.Mount, Text: path +
			" was not made by this authconfig, as far as its record goes; it is left alone: choose another mount.path, or set mount.adopt to take it over"})
		return false
	}
	return true
}

func (c *computation) tune() {
	o := c.observed.Mount
	want := c.target.Tune.Fields()
	if o == nil {
		return // it is made so
	}
	have, hash := o.Tune.Fields(), &c.plan.Record.Tune
	if o.Tune == c.target.Tune {
		*hash = Hash(want)
		return
	}
	c.step(Step{Verb: Change, Kind: KindTune, Name: c.target.Mount, Before: have, After: want, Drift: *hash != "" && *hash != Hash(have)})
}

func (c *computation) config() {
	have, want, hash := c.observed.Config, c.target.Config, &c.plan.Record.Config
	s := Step{Verb: Change, Kind: KindConfig, Name: c.target.Mount, Before: have, After: want}
	switch {
	case c.observed.Mount == nil || have == nil:
		s.Verb, s.Before = Create, nil
		if *hash != "" {
			s.Drift, s.Why = true, "it was ours and is gone"
		}
	case !Equal(have, want):
		s.Drift = *hash != "" && *hash != Hash(have)
		s.Why = c.target.NewCredential
	case !c.tokenAsWanted():
		s.Drift = *hash != ""
		s.Why = "it holds a reviewer token and is to hold none"
		if *c.target.ReviewerToken {
			s.Why = "it has lost its reviewer token"
		}
	case c.target.NewCredential != "":
		s.Why = c.target.NewCredential
	case c.target.Mark != "" && c.target.Mark != c.observed.Mark:
		s.Drift, s.Why = true, "its reviewer token is not the one that was proven last: Vault was restored, or somebody wrote another"
	case c.fresh:
		s.Why = "no login has proven it yet"
	default:
		*hash = Hash(want)
		return
	}
	c.step(s)
}

func (c *computation) tokenAsWanted() bool {
	have, want := c.observed.ReviewerToken, c.target.ReviewerToken
	return have == nil || want == nil || *have == *want
}

func (c *computation) roles() {
	if c.plan.Record.Roles == nil {
		c.plan.Record.Roles = make(map[string]RecordedRole)
	}
	wanted := maps.Clone(c.target.Roles.Roles)
	if wanted == nil {
		wanted = make(map[string]desired.Role)
	}
	for name, role := range c.target.Own {
		role.Source, role.Key = "", ""
		wanted[name] = role
	}
	c.room, c.full = newRoom(c.target.Sources, c.plan.Record.Roles), make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		c.keep(name, wanted[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.plan.Record.Roles)) {
		if _, ok := wanted[name]; !ok {
			c.remove(name)
		}
	}
}

// noted is what the record has of a role, and whether what Vault has is ours.
func (c *computation) noted(name string) (noted RecordedRole, ours bool) {
	noted, ours = c.plan.Record.Roles[name]
	if noted.Creating {
		ours = noted.wrote(c.observed.Roles[name])
	}
	return noted, ours
}

// wrote reports whether fields are what was written, or about to be.
func (r *RecordedRole) wrote(f desired.Fields) bool {
	hash := Hash(f)
	return hash == r.Hash || r.Next != "" && hash == r.Next
}

// keep makes a role what is wanted of it.
func (c *computation) keep(name string, role desired.Role) {
	noted, ours := c.noted(name)
	roles := &c.target.Roles
	if role.Source != "" && (roles.Untouched(name, role.Source) || ours && noted.Source != "" && roles.Untouched(name, noted.Source)) {
		return
	}
	if _, known := c.plan.Record.Roles[name]; !known && role.Source != "" && !c.room.take(name, role.Source) {
		c.full[role.Source] = true
		c.refuse(Refusal{Kind: KindRole, Name: name, Source: role.Source, Key: role.Key, Text: c.noRoom()})
		return
	}
	have := c.observed.Roles[name]
	is := RecordedRole{Source: role.Source, Hash: Hash(role.Fields)}
	s := Step{Verb: Change, Kind: KindRole, Name: name, Source: role.Source, Before: have, After: role.Fields}
	switch equal := have != nil && Equal(have, role.Fields); {
	case have == nil:
		s.Verb = Create
		if ours && !noted.Creating {
			s.Drift, s.Why = true, "it was ours and is gone"
		}
		delete(c.plan.Record.Roles, name)
	case ours && equal:
		c.plan.Record.Roles[name] = is
		return
	case ours:
		if s.Drift = !noted.wrote(have); !s.Drift {
			c.plan.Record.Roles[name] = RecordedRole{Source: noted.Source, Hash: Hash(have)}
		}
	case !c.target.Adopt:
		c.refuse(Refusal{Kind: KindRole, Name: name, Source: role.Source, Key: role.Key, Text: c.path(name) +
			" was made by somebody else; it is left alone: give the role another name, delete that one, or set mount.adopt to take it over"})
		return
	case equal:
		s.Verb, s.Before, s.After, s.Why = Adopt, nil, nil, "somebody else made it"
		c.plan.Record.Roles[name] = is
	default:
		s.Why = "adopted: somebody else made it"
		c.plan.Record.Roles[name] = RecordedRole{Source: role.Source, Hash: Hash(have)}
	}
	c.step(s)
}

// remove deletes a role that is noted as ours and not wanted any more.
func (c *computation) remove(name string) {
	if c.observed.Mount == nil {
		return // it is looked for when there is one again
	}
	noted, ours := c.noted(name)
	have := c.observed.Roles[name]
	if have == nil || !ours {
		delete(c.plan.Record.Roles, name)
		return
	}
	refuse := func(text string) {
		c.refuse(Refusal{Kind: KindRole, Name: name, Source: noted.Source, Text: text})
	}
	switch why := c.mayBeWanted(name, noted.Source); {
	case c.target.Roles.Untouched(name, noted.Source):
	case why != "":
		refuse(c.path(name) + " is not wanted any more, and is not deleted: " + why)
	case !noted.wrote(have):
		refuse(c.path(name) + " is not wanted any more, and is not deleted, since somebody has changed it: delete it with vault delete " +
			c.path(name) + ", or put it back into a ConfigMap")
	default:
		c.step(Step{Verb: Delete, Kind: KindRole, Name: name, Source: noted.Source, Before: have})
	}
}

// mayBeWanted says what leaves open whether a role that was taken from source is
// wanted under this name or another; empty if nothing does.
func (c *computation) mayBeWanted(name, source string) string {
	roles := &c.target.Roles
	if source == "" {
		return "" // authconfig's own
	}
	if !slices.Contains(c.target.Sources, source) && !roles.Complete {
		return "its ConfigMap " + source + " is not listed any more, and one that is listed is missing"
	}
	if c.full[source] {
		return "there is no room for all roles of ConfigMap " + source + ", and one of those may be its new name"
	}
	// A key that is not understood may be the new name of a role: with the old one
	// deleted neither would be there.
	for _, p := range roles.Problems {
		if p.Source != source || p.Key == "" || p.Role == name {
			continue
		}
		if _, there := c.observed.Roles[strings.ToLower(p.Role)]; !there {
			return fmt.Sprintf("key %s of ConfigMap %s may be its new name: correct or remove that", p.Key, source)
		}
	}
	return ""
}

func (c *computation) path(role string) string { return "auth/" + c.target.Mount + "/role/" + role }
