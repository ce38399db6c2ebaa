// Links serves short names for addresses over HTTP and gRPC.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"example.invalid/links/internal/api"
	"example.invalid/links/internal/links"
	"example.invalid/links/internal/rpc"
	"example.invalid/links/internal/telemetry"
)

type settings struct{ file, http, grpc string }

func main() {
	var s settings
	root := &cobra.Command{Use: "links", SilenceUsage: true}
	serve := &cobra.Command{
		Use:   "serve",
		Short: "serve until SIGTERM",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(command.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return run(ctx, s, func(string, string) {})
		},
	}
	serve.Flags().StringVar(&s.file, "file", "/var/lib/links/links.db", "where links are kept")
	serve.Flags().StringVar(&s.http, "http", ":8080", "address of HTTP")
	serve.Flags().StringVar(&s.grpc, "grpc", ":9090", "address of gRPC")
	root.AddCommand(serve, checkCommand())
	if err := root.ExecuteContext(context.Background()); err != nil {
		os.Exit(1)
	}
}

// run serves until the context ends; ready is told the addresses of HTTP and gRPC.
func run(ctx context.Context, s settings, ready func(http, grpc string)) error {
	stopTracing, err := telemetry.Start(ctx)
	if err != nil {
		return err
	}
	store, err := links.Open(s.file)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector())
	web := &http.Server{Handler: api.New(store, registry), ReadHeaderTimeout: 5 * time.Second}
	calls := rpc.New(store, grpc.StatsHandler(otelgrpc.NewServerHandler()))

	webListener, err := net.Listen("tcp", s.http)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	callListener, err := net.Listen("tcp", s.grpc)
	if err != nil {
		return errors.Join(err, webListener.Close(), store.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := web.Serve(webListener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("http: %w", err)
		}
		return nil
	})
	group.Go(func() error { return calls.Serve(callListener) })
	group.Go(func() error {
		<-ctx.Done()
		calls.GracefulStop()
		return web.Shutdown(context.WithoutCancel(ctx))
	})
	slog.Info("serving", "http", webListener.Addr(), "grpc", callListener.Addr())
	ready(webListener.Addr().String(), callListener.Addr().String())
	err = group.Wait()
	return errors.Join(err, store.Close(), stopTracing(context.WithoutCancel(ctx)))
}
