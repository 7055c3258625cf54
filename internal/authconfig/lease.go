package authconfig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// LeaseName is the Lease of authconfig's namespace that whoever writes holds.
const LeaseName = "latchkey-authconfig"

// How long the Lease is good, how long its holder tries to keep it, and how often
// others try to get it. The holder gives up before another can take over.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// errLost ends a process that may not go on: another leads by now.
var errLost = errors.New("another replica leads now, since the Lease could not be renewed in time (was the API server out of reach?)")

// lead runs work while this process holds the Lease, which it waits for. The
// context of work is over when ctx is; lead waits for work to end and gives the
// Lease to others then. That the Lease is lost is an error which does not wait for
// work: the process is to end with it. Another leads a few seconds later, and
// does not know what this one still did in Vault.
func lead(ctx context.Context, kube kubernetes.Interface, namespace string, log *slog.Logger, work func(context.Context)) (err error) {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding the host's name: %w", err)
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: LeaseName},
		Client:     kube.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())},
	}
	// The election outlasts ctx while work is under way.
	election, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	leading := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		// ReleaseOnCancel would also give a lost Lease away, while work is under way,
		// and hold up the news that it is lost.
		Lock: lock, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { leading <- ctx },
			OnStoppedLeading: func() {},
			OnNewLeader: func(id string) {
				if id != lock.Identity() {
					log.Info("another replica leads", "holder", id)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("electing a leader: %w", err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		elector.Run(election)
	}()
	defer func() {
		end()
		<-over
		if err == nil {
			giveAway(context.WithoutCancel(ctx), lock, log)
		}
	}()
	select {
	case <-ctx.Done():
		return nil
	case held := <-leading:
		log.Info("leading")
		// Over when either is: the Lease is lost, or the process is to end.
		both, cancel := context.WithCancel(ctx)
		defer cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			work(both)
		}()
		select {
		case <-ended:
			return nil
		case <-held.Done():
			return errLost
		}
	}
}

// giveAway gives the Lease to others at once. If that fails they wait until it
// has run out.
func giveAway(ctx context.Context, lock resourcelock.Interface, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, retryPeriod)
	defer cancel()
	now, _, err := lock.Get(ctx)
	if err == nil && now.HolderIdentity != lock.Identity() {
		return
	}
	if err == nil {
		now.HolderIdentity, now.LeaseDurationSeconds = "", 1
		err = lock.Update(ctx, *now)
	}
	if err != nil {
		log.Debug("the Lease is not given away and runs out by itself", "reason", err)
	}
}

// free says who holds the Lease, so that nobody else can get it soon.
func free(ctx context.Context, kube kubernetes.Interface, namespace string) error {
	l, err := kube.CoordinationV1().Leases(namespace).Get(ctx, LeaseName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("reading Lease %s/%s: %w", namespace, LeaseName, err)
	case l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" || l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil:
		return nil
	}
	until := l.Spec.RenewTime.Add(time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second)
	if time.Now().After(until) {
		return nil
	}
	return fmt.Errorf("%s keeps the mount already, by Lease %s/%s: it does by itself what there is to do (its log and Events say what keeps it from that)",
		*l.Spec.HolderIdentity, namespace, LeaseName)
}
