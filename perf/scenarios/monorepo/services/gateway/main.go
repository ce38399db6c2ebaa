// Gateway hands requests on to the service that their first path element names.
package main

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"

	"github.com/go-chi/chi/v5"

	"example.invalid/shop/internal/web"
)

func main() {
	upstreams := parse(os.Getenv("UPSTREAMS"))
	web.Main(web.Service{
		Name: "gateway",
		Routes: func(router chi.Router) {
			router.Get("/upstreams", func(w http.ResponseWriter, _ *http.Request) {
				web.Answer(w, map[string]int{"upstreams": len(upstreams)})
			})
			for name, upstream := range upstreams {
				router.Mount("/"+name, http.StripPrefix("/"+name, httputil.NewSingleHostReverseProxy(upstream)))
			}
		},
		Checked: "/upstreams",
	})
}

// parse reads "orders=http://orders:8080,stock=…"; what is no address is left out.
func parse(text string) map[string]*url.URL {
	found := map[string]*url.URL{}
	for _, part := range strings.Split(text, ",") {
		name, address, _ := strings.Cut(part, "=")
		if parsed, err := url.Parse(address); err == nil && parsed.Host != "" {
			found[name] = parsed
		}
	}
	return found
}
