# docker buildx bake: all ten images at once, or one group.

variable "REGISTRY" { default = "shop" }
variable "TAG" { default = "latest" }
variable "BASE" { default = "base/golang:latest" }
variable "RUNTIME" { default = "base/debian:bookworm" }
# Dockerfile.plain has no cache mounts.
variable "DOCKERFILE" { default = "Dockerfile" }
# Of the RUN steps; "host" has to be allowed.
variable "NETWORK" { default = "default" }

group "default" { targets = ["go", "python"] }
group "go" { targets = ["gateway", "catalog", "orders", "payments", "stock"] }
group "python" { targets = ["reports", "search", "invoices", "mailer", "recommendations"] }

target "image" {
  name = image
  matrix = {
    image = [
      "gateway", "catalog", "orders", "payments", "stock",
      "reports", "search", "invoices", "mailer", "recommendations",
    ]
  }
  dockerfile = DOCKERFILE
  target     = image
  network    = NETWORK
  args       = { BASE = BASE, RUNTIME = RUNTIME }
  tags       = ["${REGISTRY}/${image}:${TAG}"]
}
