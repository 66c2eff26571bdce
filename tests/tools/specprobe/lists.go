package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var nextLink = regexp.MustCompile(`^<([^>]*)>\s*;\s*rel="?next"?$`)

// pages follows the Links of a list from its first page. It gives up at a page that is not as it
// has to be.
func (t *trial) pages(target, what string, page func(*answer) bool) {
	for range 10_000 {
		a := t.ask("GET", target)
		if !t.want(a, what, 200) || !page(a) {
			return
		}
		link := a.header.Get("Link")
		if link == "" {
			return
		}
		match := nextLink.FindStringSubmatch(link)
		if !t.check(match != nil, "%s: Link %q", what, link) {
			return
		}
		next, err := a.url.Parse(match[1])
		if !t.check(err == nil, "%s: Link %q: %v", what, link, err) {
			return
		}
		target = next.String()
	}
	t.check(false, "%s: the list has no end", what)
}

// tags are those of a list, page by page.
func (t *trial) tags(query url.Values) (all []string) {
	target := t.at("tags", "list")
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	what := "tags/list?" + query.Encode()
	t.pages(target, what, func(a *answer) bool {
		var list struct {
			Name string   `json:"name"`
			Tags []string `json:"tags"`
		}
		err := json.Unmarshal(a.body, &list)
		if !t.check(err == nil && list.Tags != nil, "%s: %v: %s", what, err, a) {
			return false
		}
		t.check(list.Name == t.repo, "%s: name is %q", what, list.Name)
		if query.Has("n") {
			limit, _ := strconv.Atoi(query.Get("n"))
			t.check(len(list.Tags) <= limit, "%s: more than was asked for: %s", what, a)
		}
		all = append(all, list.Tags...)
		return true
	})
	return all
}

// tagList wants these tags among others, and every other way to list them to tell the same.
func (t *trial) tagList(wanted []string) {
	all := t.tags(nil)
	for _, tag := range wanted {
		t.check(slices.Contains(all, tag), "the list lacks %s: %v", tag, all)
	}
	t.check(inOrder(all), "the list is not sorted: %v", all)
	t.check(len(slices.Compact(slices.Clone(all))) == len(all), "the list has a tag twice: %v", all)
	if len(all) == 0 {
		return
	}
	t.check(slices.Equal(t.tags(url.Values{"n": {"1"}}), all), "n=1 and its Links: another list than %v", all)
	half := len(all) / 2
	last := all[max(half-1, 0)]
	rest := all[slices.Index(all, last)+1:]
	t.check(slices.Equal(t.tags(url.Values{"last": {last}}), rest), "last=%s: another list than %v", last, rest)
	t.check(slices.Equal(t.tags(url.Values{"last": {last}, "n": {"2"}}), rest), "n=2, last=%s: another list than %v", last, rest)
	a := t.ask("GET", with(t.at("tags", "list"), "n", "0"))
	if t.want(a, "n=0", 200) {
		var none struct {
			Tags []string `json:"tags"`
		}
		err := json.Unmarshal(a.body, &none)
		t.check(err == nil && len(none.Tags) == 0, "n=0: want no tags: %s", a)
		t.check(a.header.Get("Link") == "", "n=0: has a Link")
	}
}

// inOrder takes the order of the text, which is by letters whatever their case, and that by bytes,
// which registries have had since before the text.
func inOrder(tags []string) bool {
	byLetters := func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) }
	return slices.IsSorted(tags) || slices.IsSortedFunc(tags, byLetters)
}

// tagCases are on tags as such.
func (p *probe) tagCases() {
	p.run("tags/many", "Listing Tags", func(t *trial) {
		s := newSet("many")
		s.index(form{})
		for i := range 25 {
			s.tags[fmt.Sprintf("many-%02d", i)] = s.manifests[0].digest
		}
		s.tags["MANY-26"] = s.manifests[0].digest
		s.tags["Many_27"] = s.manifests[0].digest
		t.pushSet(s)
		t.tagList(s.tagNames())
		t.deleteSet(s)
	})
	p.run("tags/of a deleted manifest", "Deleting Manifests", func(t *trial) {
		s := newSet("deleted")
		s.index(form{annotations: map[string]string{"random": fmt.Sprintf("%x", random(9))}})
		s.tags["deleted-one"], s.tags["deleted-two"] = s.manifests[0].digest, s.manifests[0].digest
		t.pushSet(s)
		t.want(t.ask("DELETE", p.at("manifests", s.manifests[0].digest)), "DELETE", 202)
		for _, reference := range append(s.tagNames(), s.manifests[0].digest) {
			t.manifestMissing(reference)
			t.want(t.ask("DELETE", p.at("manifests", reference)), "DELETE of "+reference+", which is not there", 404)
		}
	})
	p.run("tags/moved", "Pushing Manifests; Definitions (tag)", func(t *trial) {
		s := newSet("moved")
		s.index(form{annotations: map[string]string{"is": "first"}})
		s.index(form{annotations: map[string]string{"is": "second"}})
		for _, m := range s.manifests {
			t.pushManifest(m, "moved", nil)
			t.manifestThere("moved", m)
		}
		// The first is there by its digest as before.
		t.manifestThere(s.manifests[0].digest, s.manifests[0])
		s.tags["moved"] = s.manifests[1].digest
		t.deleteSet(s)
	})
}

// referrers are the entries of a list, page by page.
func (t *trial) referrers(subject, artifactType string) (all []descriptor) {
	target := t.at("referrers", subject)
	if artifactType != "" {
		target = with(target, "artifactType", artifactType)
	}
	what := "referrers of type '" + artifactType + "'"
	t.pages(target, what, func(a *answer) bool {
		t.hasHeader(a, what, "Content-Type", indexType)
		if artifactType != "" {
			applied := strings.Split(a.header.Get("OCI-Filters-Applied"), ",")
			t.check(slices.Contains(applied, "artifactType"), "%s: OCI-Filters-Applied is %q", what, applied)
		}
		var index struct {
			SchemaVersion int          `json:"schemaVersion"`
			MediaType     string       `json:"mediaType"`
			Manifests     []descriptor `json:"manifests"`
		}
		err := json.Unmarshal(a.body, &index)
		sound := err == nil && index.SchemaVersion == 2 && index.MediaType == indexType && index.Manifests != nil
		if t.check(sound, "%s: no image index: %v: %s", what, err, a) {
			all = append(all, index.Manifests...)
		}
		return sound
	})
	return all
}

// referrersAre wants these entries and no others, and each type's where it is asked for a type.
func (t *trial) referrersAre(subject string, wanted []descriptor) {
	t.entriesAre("all referrers", t.referrers(subject, ""), wanted)
	types := map[string][]descriptor{"application/vnd.probe.nobody": nil}
	for _, entry := range wanted {
		if entry.ArtifactType != "" {
			types[entry.ArtifactType] = append(types[entry.ArtifactType], entry)
		}
	}
	for _, artifactType := range slices.Sorted(maps.Keys(types)) {
		t.entriesAre("referrers of type "+artifactType, t.referrers(subject, artifactType), types[artifactType])
	}
}

func (t *trial) entriesAre(what string, got, wanted []descriptor) {
	t.check(len(got) == len(wanted), "%s: want %d, got %+v", what, len(wanted), got)
	for _, entry := range wanted {
		same := func(d descriptor) bool {
			return d.Digest == entry.Digest && d.MediaType == entry.MediaType && d.Size == entry.Size &&
				d.ArtifactType == entry.ArtifactType && maps.Equal(d.Annotations, entry.Annotations)
		}
		t.check(slices.ContainsFunc(got, same), "%s: want %+v, got %+v", what, entry, got)
	}
}
