// Payments adds up what is to be paid.
package main

import (
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"

	"example.invalid/shop/internal/web"
)

// Per mille, as the tax offices of the countries say.
var taxes = map[string]int{"AT": 200, "DE": 190, "FR": 200, "PL": 230}

func main() {
	web.Main(web.Service{
		Name:    "payments",
		Routes:  func(router chi.Router) { router.Get("/total/{country}/{cents}", total) },
		Checked: "/total/DE/1000",
	})
}

func total(w http.ResponseWriter, r *http.Request) {
	tax, known := taxes[chi.URLParam(r, "country")]
	cents, err := strconv.Atoi(chi.URLParam(r, "cents"))
	if !known || err != nil || cents < 0 {
		http.Error(w, "expected a country that is delivered to and a number of cents", http.StatusBadRequest)
		return
	}
	web.Answer(w, map[string]int{"total": cents + (cents*tax+500)/1000})
}
