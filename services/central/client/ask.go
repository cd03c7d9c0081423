package client

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strconv"
)

// headerOnce is the header of a request that shall have its effect once.
const headerOnce = "Idempotency-Key"

// ask sends in as JSON and decodes the answer into out; nil leaves either out. What has an effect is given a key: net/http sends
// such a request again by itself where the connection broke before there was an answer.
func (a *Admin) ask(ctx context.Context, method, path string, in, out any) error {
	header := http.Header{}
	if method == http.MethodPost && path != PathLogin {
		header.Set(headerOnce, `"`+rand.Text()+`"`)
	}
	_, err := exchange(ctx, a.http, method, a.base+path, header, in, out)
	return err
}

func post[T any](ctx context.Context, a *Admin, path string, in any) (T, error) {
	var out T
	err := a.ask(ctx, http.MethodPost, path, in, &out)
	return out, err
}

func get[T any](ctx context.Context, a *Admin, path string, query url.Values) (T, error) {
	var out T
	err := a.ask(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &out)
	return out, err
}

// list asks for a whole list.
func list[T any](ctx context.Context, a *Admin, path string, query url.Values) ([]T, error) {
	out, _, err := pages[T](ctx, a, path, query, 0)
	return out, err
}

// pages asks for the first entries of a list, at most limit (0: all), page by page. It returns the after of what follows, empty
// where nothing does.
func pages[T any](ctx context.Context, a *Admin, path string, query url.Values, limit int) ([]T, string, error) {
	if query == nil {
		query = url.Values{}
	}
	out := []T{}
	for {
		query.Set("limit", strconv.Itoa(MaxPage))
		if limit > 0 {
			query.Set("limit", strconv.Itoa(min(limit-len(out), MaxPage)))
		}
		page, err := get[List[T]](ctx, a, path, query)
		if err != nil {
			return nil, "", err
		}
		out = append(out, page.Items...)
		if page.Next == "" || limit > 0 && len(out) >= limit {
			return out, page.Next, nil
		}
		query.Set("after", page.Next)
	}
}
