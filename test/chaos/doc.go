// Package chaos kills agents, thousands of times and at any instant, while an
// app reads what they publish: `make chaos`. It also lets agents idle for long,
// and watches what they need: `make soak`.
package chaos
