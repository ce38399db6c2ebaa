package api_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"example.invalid/links/internal/api"
	"example.invalid/links/internal/links"
)

func TestKeptLinkIsFollowed(t *testing.T) {
	store, err := links.Open(filepath.Join(t.TempDir(), "links.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	handler := api.New(store, prometheus.NewRegistry())

	body := strings.NewReader(`{"address": "https://example.invalid/long"}`)
	kept := httptest.NewRecorder()
	handler.ServeHTTP(kept, httptest.NewRequest(http.MethodPut, "/short", body))
	followed := httptest.NewRecorder()
	handler.ServeHTTP(followed, httptest.NewRequest(http.MethodGet, "/short", nil))

	if kept.Code != http.StatusNoContent || followed.Header().Get("Location") != "https://example.invalid/long" {
		t.Fatalf("kept: %d, followed: %d %v", kept.Code, followed.Code, followed.Header())
	}
}

func TestUnknownLinkIsNotFound(t *testing.T) {
	store, err := links.Open(filepath.Join(t.TempDir(), "links.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()

	answer := httptest.NewRecorder()
	api.New(store, prometheus.NewRegistry()).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/none", nil))

	if answer.Code != http.StatusNotFound {
		t.Fatalf("got %d", answer.Code)
	}
}
