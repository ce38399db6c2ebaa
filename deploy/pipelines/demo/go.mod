module example.invalid/web

go 1.24
