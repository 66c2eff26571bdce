package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// wire sends requests and signs in where it is told to, by the token protocol of registries.
type wire struct {
	client         *http.Client
	user, password string
	tokens         map[string]string // by repository and right
	protocols      map[string]int    // answers by version of HTTP
}

func newWire(user, password string) *wire {
	return &wire{client: http.DefaultClient, user: user, password: password,
		tokens: map[string]string{}, protocols: map[string]int{}}
}

// answer is what came back; a status of 0 means that nothing did, and the body then says why.
type answer struct {
	method, protocol string
	url              *url.URL
	status           int
	header           http.Header
	body             []byte
}

func (a *answer) String() string {
	body := string(a.body)
	if len(body) > 300 {
		body = body[:300] + "..."
	}
	return fmt.Sprintf("%d %s", a.status, body)
}

// ask sends a request without a body. Headers come as key, value, key, value.
func (p *probe) ask(method, target string, headers ...string) *answer {
	return p.wire.signedIn(method, target, nil, false, headers)
}

// send sends a body with its length.
func (p *probe) send(method, target string, body []byte, headers ...string) *answer {
	return p.wire.signedIn(method, target, body, false, headers)
}

// stream sends a body without telling its length before.
func (p *probe) stream(method, target string, body []byte, headers ...string) *answer {
	return p.wire.signedIn(method, target, body, true, headers)
}

func (w *wire) signedIn(method, target string, body []byte, streamed bool, headers []string) *answer {
	key, from := method, ""
	if parsed, err := url.Parse(target); err == nil {
		// A mount needs a right in the other repository too, and clients ask for it by themselves.
		from = parsed.Query().Get("from")
		key = repositoryOf(parsed.Path) + " " + method + " " + from
	}
	a := w.once(method, target, body, streamed, headers, w.tokens[key])
	if a.status == http.StatusUnauthorized {
		token, err := w.token(a.header.Get("WWW-Authenticate"), from)
		if err != nil {
			a = &answer{method: method, header: http.Header{}, body: []byte(err.Error())}
		} else {
			w.tokens[key] = token
			a = w.once(method, target, body, streamed, headers, token)
		}
	}
	w.protocols[a.protocol]++
	return a
}

// once sends one request as it is.
func (w *wire) once(method, target string, body []byte, streamed bool, headers []string, token string) *answer {
	nothing := func(err error) *answer {
		return &answer{method: method, header: http.Header{}, body: []byte(err.Error())}
	}
	var content io.Reader
	if streamed {
		// A reader of unknown kind has no length.
		content = io.NopCloser(bytes.NewReader(body))
	} else if len(body) > 0 {
		content = bytes.NewReader(body)
	}
	request, err := http.NewRequest(method, target, content)
	if err != nil {
		return nothing(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := w.client.Do(request)
	if err != nil {
		return nothing(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		return nothing(fmt.Errorf("the body of an answer %d broke off: %w", response.StatusCode, err))
	}
	return &answer{method, response.Proto, request.URL, response.StatusCode, response.Header, got}
}

var challengePart = regexp.MustCompile(`(\w+)="([^"]*)"`)

// token asks for what the challenge says, and for the right to pull from the repository `from`.
func (w *wire) token(challenge, from string) (string, error) {
	parts := map[string]string{}
	for _, part := range challengePart.FindAllStringSubmatch(challenge, -1) {
		parts[strings.ToLower(part[1])] = part[2]
	}
	query := url.Values{"service": {parts["service"]}}
	for _, scope := range strings.Fields(parts["scope"]) {
		query.Add("scope", scope)
	}
	if from != "" {
		query.Add("scope", "repository:"+from+":pull")
	}
	request, err := http.NewRequest("GET", parts["realm"]+"?"+query.Encode(), nil)
	if err != nil {
		return "", err
	}
	request.SetBasicAuth(w.user, w.password)
	response, err := w.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var body struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil || body.Token == "" {
		return "", fmt.Errorf("no token: status %d, challenge %s: %v", response.StatusCode, challenge, err)
	}
	return body.Token, nil
}

// repositoryOf is the repository that a path is about, "" where it is about none.
func repositoryOf(path string) string {
	path = strings.TrimPrefix(path, "/v2/")
	for _, kind := range []string{"/blobs/", "/manifests/", "/tags/", "/referrers/"} {
		if end := strings.LastIndex(path, kind); end >= 0 {
			return path[:end]
		}
	}
	return ""
}

// location is where an answer points to, as a whole address; `otherwise` where it has no Location.
func (t *trial) location(a *answer, what, otherwise string) string {
	value := a.header.Get("Location")
	if !t.check(value != "" && a.url != nil, "%s: no Location", what) {
		return otherwise
	}
	target, err := a.url.Parse(value)
	if !t.check(err == nil, "%s: Location %q: %v", what, value, err) {
		return otherwise
	}
	return target.String()
}

// with adds a parameter to the query of an address.
func with(target, key, value string) string {
	separator := "?"
	if strings.Contains(target, "?") {
		separator = "&"
	}
	return target + separator + url.QueryEscape(key) + "=" + url.QueryEscape(value)
}
