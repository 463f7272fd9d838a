"""Snippets for go-redis, version 9."""

from __future__ import annotations

from bootstrap.exports.contacts import Contact
from bootstrap.exports.text import CA_VARIABLE, PASSWORD_VARIABLE, about_files, indented, quoted


def go_redis(contact: Contact) -> list[str]:
    """A whole program."""
    nodes = ", ".join(quoted(str(each)) for each in contact.addresses)
    fields = {"Addrs": f"[]string{{{nodes}}}"}
    if contact.named_user:
        fields["Username"] = quoted(contact.named_user)
    if contact.user:
        fields["Password"] = "password"  # noqa: S105 -- a variable's name
    if contact.tls:
        fields["TLSConfig"] = "encryption"
    # As gofmt aligns them.
    width = max(map(len, fields)) + 1
    options = [f"{f'{name}:':<{width}} {value}," for name, value in fields.items()]
    if contact.remap:
        options += _dialer(contact)
    body = [
        *_password(contact),
        *_encryption(contact),
        *_table(contact),
        "client := redis.NewClusterClient(&redis.ClusterOptions{",
        *indented(options, "\t"),
        "})",
        "defer client.Close()",
        "ctx := context.Background()",
        'if err := client.Set(ctx, "key", "value", 0).Err(); err != nil {',
        "\tpanic(err)",
        "}",
        'value, err := client.Get(ctx, "key").Result()',
        "if err != nil {",
        "\tpanic(err)",
        "}",
        "fmt.Println(value)",
    ]
    about = about_files(contact, "//")
    return [
        *about,
        # Right above the package it would be its documentation.
        *([""] if about else []),
        "package main",
        "",
        "import (",
        *indented((quoted(name) for name in _imports(contact)), "\t"),
        "",
        '\t"github.com/redis/go-redis/v9"',
        ")",
        "",
        "func main() {",
        *indented(body, "\t"),
        "}",
    ]


def _imports(contact: Contact) -> list[str]:
    """Go refuses an import that is not used."""
    reads_ca = contact.own_authority
    used = {
        "context": True,
        "crypto/tls": contact.tls,
        "crypto/x509": reads_ca,
        "fmt": True,
        "net": bool(contact.remap),
        "os": bool(contact.user) or reads_ca,
        "strings": bool(contact.user and contact.password_file),
    }
    return [name for name, is_used in used.items() if is_used]


def _password(contact: Contact) -> list[str]:
    if not contact.user:
        return []
    if not contact.password_file:
        return [f"password := os.Getenv({quoted(PASSWORD_VARIABLE)})"]
    return [
        f"secret, err := os.ReadFile({quoted(contact.password_file)})",
        "if err != nil {",
        "\tpanic(err)",
        "}",
        'password := strings.TrimSuffix(strings.SplitN(string(secret), "\\n", 2)[0], "\\r")',
    ]


def _encryption(contact: Contact) -> list[str]:
    if not contact.tls:
        return []
    if not contact.own_authority:
        return ["encryption := &tls.Config{}"]
    file = quoted(contact.ca_file) if contact.ca_file else f"os.Getenv({quoted(CA_VARIABLE)})"
    return [
        f"authorities, err := os.ReadFile({file})",
        "if err != nil {",
        "\tpanic(err)",
        "}",
        "trusted := x509.NewCertPool()",
        "if !trusted.AppendCertsFromPEM(authorities) {",
        '\tpanic("there is no certificate in the file of the authorities")',
        "}",
        "encryption := &tls.Config{RootCAs: trusted}",
    ]


def _table(contact: Contact) -> list[str]:
    if not contact.remap:
        return []
    pairs = (f"{quoted(str(a))}: {quoted(str(b))}," for a, b in contact.remap.items())
    return ["addresses := map[string]string{", *indented(pairs, "\t"), "}"]


def _dialer(contact: Contact) -> list[str]:
    """A dialer of one's own takes the place of the one that would encrypt."""
    dialer = "&tls.Dialer{Config: encryption}" if contact.tls else "&net.Dialer{}"
    return [
        "Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {",
        "\tif mapped, ok := addresses[addr]; ok {",
        "\t\taddr = mapped",
        "\t}",
        f"\treturn ({dialer}).DialContext(ctx, network, addr)",
        "},",
    ]
