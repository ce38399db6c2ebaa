// Package web is what the Go services of the shop have in common: routes, figures, a start, an end and a check.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Service is one program of the shop.
type Service struct {
	Name   string
	Routes func(chi.Router)
	// Checked is a path that answers 200 where the service works.
	Checked string
	// Revision says which source it was built from.
	Revision int
}

// Main serves until SIGTERM; with --check it asks the one path, prints a line and ends.
func Main(service Service) {
	address := flag.String("address", ":8080", "where to listen")
	checked := flag.Bool("check", false, "ask the service one question and end")
	flag.Parse()
	act := func() error { return serve(service, *address) }
	if *checked {
		act = func() error { return check(service, os.Stdout) }
	}
	if err := act(); err != nil {
		slog.Error(service.Name, "error", err)
		os.Exit(1)
	}
}

func handler(service Service) http.Handler {
	seconds := promauto.With(prometheus.DefaultRegisterer).NewHistogram(prometheus.HistogramOpts{
		Name:        "request_seconds",
		Help:        "How long requests took.",
		ConstLabels: prometheus.Labels{"service": service.Name},
	})
	router := chi.NewRouter()
	router.Use(middleware.RequestID, middleware.Recoverer, timed(seconds))
	router.Handle("/metrics", promhttp.Handler())
	router.Group(service.Routes)
	return router
}

func timed(seconds prometheus.Observer) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer prometheus.NewTimer(seconds).ObserveDuration()
			next.ServeHTTP(w, r)
		})
	}
}

func serve(service Service, address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server := &http.Server{Addr: address, Handler: handler(service), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func check(service Service, output io.Writer) error {
	answer := httptest.NewRecorder()
	handler(service).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, service.Checked, nil))
	if answer.Code != http.StatusOK {
		return fmt.Errorf("GET %s: %d %s", service.Checked, answer.Code, answer.Body)
	}
	_, err := fmt.Fprintf(
		output, "%s revision=%d %s\n", service.Name, service.Revision, strings.TrimSpace(answer.Body.String()),
	)
	return err
}

// Answer writes a value as JSON.
func Answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		slog.Warn("answer", "error", err)
	}
}
