package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAnswers(t *testing.T) {
	for target, want := range map[string]string{
		"/":                 "Hello, world!\n",
		"/?name=%3Cb%3Eyou": "Hello, <b>you!\n",
		"/version":          commit + "\n",
		"/healthz":          "ok\n",
	} {
		answer := httptest.NewRecorder()
		handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, target, nil))
		if answer.Code != http.StatusOK || answer.Body.String() != want {
			t.Errorf("%s: expected 200 %q, found %d %q", target, want, answer.Code, answer.Body.String())
		}
	}
}

func TestKnowsNoOtherPage(t *testing.T) {
	answer := httptest.NewRecorder()
	handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/else", nil))
	if answer.Code != http.StatusNotFound {
		t.Errorf("expected 404, found %d", answer.Code)
	}
}
