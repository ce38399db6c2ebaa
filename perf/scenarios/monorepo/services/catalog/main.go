// Catalog tells what there is to buy.
package main

import (
	_ "embed"
	"net/http"

	"github.com/go-chi/chi/v5"
	"go.yaml.in/yaml/v3"

	"example.invalid/shop/internal/web"
)

//go:embed products.yaml
var source []byte

type product struct {
	ID    string `json:"id" yaml:"id"`
	Name  string `json:"name" yaml:"name"`
	Cents int    `json:"cents" yaml:"cents"`
}

func main() {
	var products []product
	if err := yaml.Unmarshal(source, &products); err != nil {
		panic(err)
	}
	web.Main(web.Service{
		Name: "catalog",
		Routes: func(router chi.Router) {
			router.Get("/products", func(w http.ResponseWriter, _ *http.Request) { web.Answer(w, products) })
			router.Get("/products/{id}", func(w http.ResponseWriter, r *http.Request) {
				for _, one := range products {
					if one.ID == chi.URLParam(r, "id") {
						web.Answer(w, one)
						return
					}
				}
				http.NotFound(w, r)
			})
		},
		Checked: "/products/tea",
	})
}
