// Package api serves links over HTTP.
package api

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"example.invalid/links/internal/links"
	"example.invalid/links/internal/version"
)

// Store is what the API keeps links in.
type Store interface {
	Put(key, address string) error
	Get(key string) (string, error)
}

// New returns the handler of all requests; its figures go to the registry.
func New(store Store, registry *prometheus.Registry) http.Handler {
	requests := prometheus.NewCounterVec(
		prometheus.CounterOpts{Name: "links_requests_total", Help: "Requests by what became of them."},
		[]string{"result"},
	)
	registry.MustRegister(requests)
	h := handlers{store, requests}

	router := chi.NewRouter()
	router.Use(middleware.RequestID, middleware.Recoverer)
	router.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	router.Get("/version", h.version)
	router.Get("/{name}", h.follow)
	router.Put("/{name}", h.keep)
	return otelhttp.NewHandler(router, "links")
}

type handlers struct {
	store    Store
	requests *prometheus.CounterVec
}

func (h handlers) version(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]int{"revision": version.Revision})
}

func (h handlers) follow(w http.ResponseWriter, r *http.Request) {
	address, err := h.store.Get(chi.URLParam(r, "name"))
	if err != nil {
		h.fail(w, err)
		return
	}
	h.requests.WithLabelValues("followed").Inc()
	http.Redirect(w, r, address, http.StatusFound)
}

func (h handlers) keep(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Address string `json:"address"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&body); err != nil {
		h.fail(w, links.ErrInvalid)
		return
	}
	if err := h.store.Put(chi.URLParam(r, "name"), body.Address); err != nil {
		h.fail(w, err)
		return
	}
	h.requests.WithLabelValues("kept").Inc()
	w.WriteHeader(http.StatusNoContent)
}

func (h handlers) fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, links.ErrUnknown):
		status = http.StatusNotFound
	case errors.Is(err, links.ErrInvalid):
		status = http.StatusBadRequest
	}
	h.requests.WithLabelValues("failed").Inc()
	http.Error(w, err.Error(), status)
}
