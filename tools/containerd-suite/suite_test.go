// Package suite runs containerd's own test suite for snapshotters on the agent and, to compare, on
// containerd's overlayfs snapshotter, in whatever namespace it is started in.
package suite

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/pkg/testutil"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var agent = flag.String("agent", "", "command that starts the agent, words separated by spaces; it gets --root and --socket")

const patience = 30 * time.Second

func TestAgent(t *testing.T) {
	testutil.RequiresRoot(t)
	if *agent == "" {
		t.Fatal("which agent? say -agent COMMAND")
	}
	// The name tells the suite what no overlay can do: rename a directory of a lower layer.
	testsuite.SnapshotterSuite(t, "overlayfs", startAgent)
}

func TestOverlayfs(t *testing.T) {
	testutil.RequiresRoot(t)
	testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		sn, err := overlay.NewSnapshotter(root)
		if err != nil {
			return nil, nil, err
		}
		return sn, sn.Close, nil
	})
}

// startAgent gives every test an agent of its own: the tests run at the same time and share names.
func startAgent(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	socket := filepath.Join(filepath.Dir(root), "agent.sock")
	words := append(strings.Fields(*agent), "--root", root, "--socket", socket)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	stop := func() error {
		return errors.Join(conn.Close(), cmd.Process.Signal(syscall.SIGTERM), cmd.Wait(), unmountBelow(root))
	}
	client := snapshotsapi.NewSnapshotsClient(conn)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := client.Cleanup(ctx, &snapshotsapi.CleanupRequest{}, grpc.WaitForReady(true)); err != nil {
		return nil, nil, fmt.Errorf("agent does not answer: %w", errors.Join(err, stop()))
	}
	return proxy.NewSnapshotter(client, "agent"), stop, nil
}

// unmountBelow ends the mounts that an agent leaves for its successor.
func unmountBelow(root string) error {
	points, err := filepath.Glob(filepath.Join(root, "*", "merged"))
	if err != nil {
		return err
	}
	for _, point := range points {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}
