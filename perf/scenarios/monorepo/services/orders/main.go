// Orders takes orders and tells what became of them.
package main

import (
	"encoding/json"
	"net/http"
	"sync"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"example.invalid/shop/internal/web"
)

// The one value that the comparison changes: a one-line change of the source.
const revision = 0

type order struct {
	ID    string         `json:"id"`
	Items map[string]int `json:"items"`
}

type book struct {
	mutex  sync.RWMutex
	orders map[string]order
}

func main() {
	orders := &book{orders: map[string]order{}}
	web.Main(web.Service{
		Name: "orders",
		Routes: func(router chi.Router) {
			router.Get("/orders", orders.count)
			router.Post("/orders", orders.add)
			router.Get("/orders/{id}", orders.show)
		},
		Checked:  "/orders",
		Revision: revision,
	})
}

func (b *book) count(w http.ResponseWriter, _ *http.Request) {
	b.mutex.RLock()
	defer b.mutex.RUnlock()
	web.Answer(w, map[string]int{"orders": len(b.orders)})
}

func (b *book) add(w http.ResponseWriter, r *http.Request) {
	taken := order{ID: uuid.NewString()}
	if err := json.NewDecoder(r.Body).Decode(&taken.Items); err != nil || len(taken.Items) == 0 {
		http.Error(w, "an order is an object with an amount for each product", http.StatusBadRequest)
		return
	}
	b.mutex.Lock()
	b.orders[taken.ID] = taken
	b.mutex.Unlock()
	w.WriteHeader(http.StatusCreated)
	web.Answer(w, taken)
}

func (b *book) show(w http.ResponseWriter, r *http.Request) {
	b.mutex.RLock()
	defer b.mutex.RUnlock()
	found, ok := b.orders[chi.URLParam(r, "id")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	web.Answer(w, found)
}
