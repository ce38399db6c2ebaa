// Stock counts what lies in the warehouse.
package main

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sync/singleflight"

	"example.invalid/shop/internal/web"
)

type warehouse struct {
	mutex  sync.Mutex
	counts map[string]int
	asked  singleflight.Group
}

func main() {
	w := &warehouse{counts: map[string]int{"tea": 12}}
	web.Main(web.Service{
		Name: "stock",
		Routes: func(router chi.Router) {
			router.Get("/stock/{product}", w.show)
			router.Put("/stock/{product}/{count}", w.set)
		},
		Checked: "/stock/tea",
	})
}

func (s *warehouse) show(w http.ResponseWriter, r *http.Request) {
	product := chi.URLParam(r, "product")
	count, _, _ := s.asked.Do(product, func() (any, error) {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		return s.counts[product], nil
	})
	web.Answer(w, map[string]any{product: count})
}

func (s *warehouse) set(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(chi.URLParam(r, "count"))
	if err != nil || count < 0 {
		http.Error(w, "expected a number of pieces", http.StatusBadRequest)
		return
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.counts[chi.URLParam(r, "product")] = count
	w.WriteHeader(http.StatusNoContent)
}
