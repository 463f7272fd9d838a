"""Snippets for clients in Java: Jedis and Lettuce."""

from __future__ import annotations

from collections.abc import Iterable

from bootstrap.exports.contacts import Contact
from bootstrap.exports.text import CA_VARIABLE, PASSWORD_VARIABLE, about_files, indented, quoted


def jedis(contact: Contact) -> list[str]:
    """Jedis 7: `RedisClusterClient`, for which `JedisCluster` is deprecated."""
    options = []
    if contact.user:
        user = [f".user({quoted(contact.named_user)})"] if contact.named_user else []
        options += [*user, f".password({_password(contact)})"]
    if contact.tls:
        options.append(".sslOptions(encryption)")
    if contact.remap:
        options.append(".hostAndPortMapper(where -> addresses.getOrDefault(where, where))")
    nodes = ", ".join(f"new HostAndPort({quoted(each.host)}, {each.port})" for each in contact.addresses)
    body = [
        *_jedis_encryption(contact),
        *_table(contact, "new HostAndPort"),
        "var config = DefaultJedisClientConfig.builder()",
        *indented(options, "    "),
        "    .build();",
        f"var nodes = Set.of({nodes});",
        "try (var client = RedisClusterClient.builder().nodes(nodes).clientConfig(config).build()) {",
        '    client.set("key", "value");',
        '    System.out.println(client.get("key"));',
        "}",
    ]
    trust = contact.own_authority
    imports = [
        *(["java.io.ByteArrayInputStream", "java.io.ByteArrayOutputStream"] if trust else []),
        *_file_imports(contact, path=trust),
        *(["java.security.KeyStore", "java.security.cert.CertificateFactory"] if trust else []),
        *(["java.util.Map"] if contact.remap else []),
        "java.util.Set",
        "redis.clients.jedis.DefaultJedisClientConfig",
        "redis.clients.jedis.HostAndPort",
        "redis.clients.jedis.RedisClusterClient",
        *(["redis.clients.jedis.SslOptions"] if contact.tls else []),
    ]
    return _program(contact, "Jedis, 7.2 or newer", imports, body)


def _jedis_encryption(contact: Contact) -> list[str]:
    if not contact.tls:
        return []
    if not contact.own_authority:
        return ["var encryption = SslOptions.builder().build();"]
    # Jedis takes Java's own stores only, and no PEM.
    return [
        'var authorities = KeyStore.getInstance("PKCS12");',
        "authorities.load(null, null);",
        f"try (var file = Files.newInputStream(Path.of({_ca_file(contact)}))) {{",
        '    for (var each : CertificateFactory.getInstance("X.509").generateCertificates(file)) {',
        '        authorities.setCertificateEntry("ca" + authorities.size(), each);',
        "    }",
        "}",
        "var store = new ByteArrayOutputStream();",
        "authorities.store(store, new char[0]);",
        'var encryption = SslOptions.builder().trustStoreType("PKCS12")',
        "    .truststore(() -> new ByteArrayInputStream(store.toByteArray()), new char[0]).build();",
    ]


def lettuce(contact: Contact) -> list[str]:
    """Lettuce 6 and 7."""
    nodes = [_uri(contact, f"{quoted(each.host)}, {each.port}") for each in contact.addresses]
    trust = contact.own_authority
    create = "RedisClusterClient.create(nodes)"
    resources, closing = [], []
    if contact.remap:
        create = "RedisClusterClient.create(resources, nodes)"
        resources = [
            *_table(contact, "HostAndPort.of"),
            "var resolver = MappingSocketAddressResolver.create(",
            "    DnsResolvers.UNRESOLVED, where -> addresses.getOrDefault(where, where));",
            "var resources = ClientResources.builder().socketAddressResolver(resolver).build();",
        ]
        closing = ["resources.shutdown();"]
    body = [
        *([f"var password = {_password(contact)};"] if contact.user else []),
        "var nodes = List.of(",
        *indented([*(f"{node}," for node in nodes[:-1]), f"{nodes[-1]});"]),
        *resources,
        f"var client = {create};",
        *(
            [
                f"var encryption = SslOptions.builder().trustManager(new File({_ca_file(contact)})).build();",
                "client.setOptions(ClusterClientOptions.builder().sslOptions(encryption).build());",
            ]
            if trust
            else []
        ),
        "try (var connection = client.connect()) {",
        '    connection.sync().set("key", "value");',
        '    System.out.println(connection.sync().get("key"));',
        "}",
        "client.shutdown();",
        *closing,
    ]
    return _program(contact, "Lettuce, 6 or 7", _lettuce_imports(contact, trust=trust), body)


def _lettuce_imports(contact: Contact, *, trust: bool) -> list[str]:
    mapped = bool(contact.remap)
    return [
        "io.lettuce.core.RedisURI",
        *(["io.lettuce.core.SslOptions", "io.lettuce.core.cluster.ClusterClientOptions"] if trust else []),
        "io.lettuce.core.cluster.RedisClusterClient",
        *(["io.lettuce.core.internal.HostAndPort", "io.lettuce.core.resource.ClientResources"] if mapped else []),
        *(["io.lettuce.core.resource.DnsResolvers"] if mapped else []),
        *(["io.lettuce.core.resource.MappingSocketAddressResolver"] if mapped else []),
        *(["java.io.File"] if trust else []),
        *_file_imports(contact, path=False),
        "java.util.List",
        *(["java.util.Map"] if mapped else []),
    ]


def _uri(contact: Contact, where: str) -> str:
    login = ".withPassword(password.toCharArray())" if contact.user else ""
    if contact.named_user:
        login = f".withAuthentication({quoted(contact.named_user)}, password)"
    host, _, port = where.rpartition(", ")
    tls = ".withSsl(true)" if contact.tls else ""
    return f"RedisURI.builder().withHost({host}).withPort({port}){tls}{login}.build()"


def _program(contact: Contact, version: str, imports: Iterable[str], body: Iterable[str]) -> list[str]:
    return [
        f"// {version}",
        *about_files(contact, "//"),
        *(f"import {name};" for name in imports),
        "",
        "public class Example {",
        "    public static void main(String[] args) throws Exception {",
        *indented(body, " " * 8),
        "    }",
        "}",
    ]


def _file_imports(contact: Contact, *, path: bool) -> list[str]:
    by_path = path or bool(contact.user and contact.password_file)
    return ["java.nio.file.Files", "java.nio.file.Path"] if by_path else []


def _password(contact: Contact) -> str:
    if not contact.password_file:
        return f"System.getenv({quoted(PASSWORD_VARIABLE)})"
    return f"Files.readAllLines(Path.of({quoted(contact.password_file)})).get(0)"


def _ca_file(contact: Contact) -> str:
    return quoted(contact.ca_file) if contact.ca_file else f"System.getenv({quoted(CA_VARIABLE)})"


def _table(contact: Contact, make: str) -> list[str]:
    if not contact.remap:
        return []
    pairs = [
        f"Map.entry({make}({quoted(a.host)}, {a.port}), {make}({quoted(b.host)}, {b.port}))"
        for a, b in contact.remap.items()
    ]
    return [
        "var addresses = Map.ofEntries(",
        *indented([*(f"{pair}," for pair in pairs[:-1]), f"{pairs[-1]});"]),
    ]
