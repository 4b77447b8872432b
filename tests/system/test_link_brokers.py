"""The link and the checks against the brokers that a gateway meets: TLS, passwords, 3.1.1 only, stock and embedded."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from penstock_gateway import broker_check
from penstock_gateway.broker_check import ask, probe_foreign_publish, probe_queue
from penstock_gateway.embedded import Address, amqtt_broker, embedded_broker
from penstock_gateway.mqtt import LinkOptions, Publish
from penstock_gateway.mqtt.link import MqttLink
from penstock_models.errors import PenstockError, UsageError
from tests.fakes.broker import Broker, mosquitto
from tests.fakes.link_owner import running


def options(broker: Broker | Address, **changes: object) -> LinkOptions:
    given: dict[str, object] = {
        "client_id": "c",
        "subscriptions": (("t", 1),),
        "reconnect_min_s": 0.01,
        **changes,
    }
    return LinkOptions(host=broker.host, port=broker.port, **given)  # type: ignore[arg-type]


async def echoes(given: LinkOptions) -> int:
    """Send a message in and get it back; the protocol that was spoken."""
    link = MqttLink(given)
    async with running(link) as owner:
        granted = await owner.until_up()
        assert link.publish(Publish("t", b"hello", 1))
        await owner.until(lambda: owner.payloads == [b"hello"])
        return granted.protocol


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server's certificate for 127.0.0.1, a client's, and a stranger's from another CA."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    def authority(name: str) -> None:
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem",
                "-subj", f"/CN={name}", "-days", "2")  # fmt: skip

    def leaf(name: str, signer: str) -> None:
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{signer}.pem", "-CAkey", f"{signer}.key",
                "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext")  # fmt: skip

    authority("ca")
    authority("other")
    leaf("server", "ca")
    leaf("client", "ca")
    leaf("stranger", "other")
    return folder


class TestTls:
    @pytest.fixture
    async def broker(self, certificates: Path) -> AsyncIterator[Broker]:
        config = (
            f"cafile {certificates}/ca.pem\ncertfile {certificates}/server.pem\nkeyfile {certificates}/server.key\n"
            "require_certificate true"
        )
        async with mosquitto(config) as broker:
            yield broker

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    async def test_both_sides_show_a_certificate(self, broker: Broker, certificates: Path, host: str) -> None:
        given = options(
            broker, tls=True, ca=f"{certificates}/ca.pem", cert=f"{certificates}/client.pem",
            key=f"{certificates}/client.key",
        )  # fmt: skip
        broker.host = host
        assert await echoes(given) == 5

    @pytest.mark.parametrize(
        ("ca", "client", "words"),
        [("other", "client", "certificate verify failed"), ("ca", "stranger", ""), ("ca", None, "")],
    )
    async def test_a_wrong_certificate_never_comes_up(
        self, broker: Broker, certificates: Path, ca: str, client: str | None, words: str
    ) -> None:
        given = options(
            broker, tls=True, ca=f"{certificates}/{ca}.pem",
            cert=client and f"{certificates}/{client}.pem", key=client and f"{certificates}/{client}.key",
        )  # fmt: skip
        async with running(MqttLink(given)) as owner:
            await owner.until(lambda: len(owner.downs) >= 3)
            assert words in owner.downs[0] and owner.ups == []


def password_file(folder: Path) -> Path:
    """One user, `gateway`, whose password is `secret`."""
    words = folder / "words"
    words.write_text("gateway:secret\n")
    subprocess.run(["mosquitto_passwd", "-U", str(words)], check=True, capture_output=True)
    return words


async def test_a_wrong_password_is_said_and_waited_on(tmp_path: Path) -> None:
    words = password_file(tmp_path)
    async with mosquitto(f"allow_anonymous false\npassword_file {words}") as broker:
        assert await echoes(options(broker, username="gateway", password="secret")) == 5
        wrong = options(broker, username="gateway", password="wrong", reconnect_min_s=0.05)
        loop = asyncio.get_running_loop()
        async with running(MqttLink(wrong)) as owner:
            began = loop.time()
            await owner.until(lambda: len(owner.downs) >= 4)
            assert set(owner.downs) == {"the broker refused: not authorized (0x87)"} and owner.ups == []
            assert loop.time() - began > 0.01
        async with running(MqttLink(options(broker, username="gateway", password="no", protocol=4))) as owner:
            await owner.until(lambda: bool(owner.downs))
            assert owner.downs[0] == "the broker refused: not authorized (0x05)"


class TestAmqtt:
    @pytest.mark.parametrize("protocol", [4, 5])
    async def test_a_broker_of_3_1_1_only_works(self, protocol: int, free_port: Callable[[], int]) -> None:
        async with amqtt_broker("127.0.0.1", free_port()) as broker:
            assert broker.kind == "amqtt"
            assert (
                await echoes(options(broker, protocol=protocol, connect_timeout_s=1, session_expiry_s=9)) == 4
            )


class TestEmbedded:
    async def test_mosquitto_runs_as_long_as_the_gateway(self, tmp_path: Path) -> None:
        async with embedded_broker("127.0.0.1:0", tmp_path) as broker:
            assert broker.kind == "mosquitto"
            assert await echoes(options(broker)) == 5
            with pytest.raises(UsageError, match=rf"cannot listen on 127.0.0.1:{broker.port}: .* in use"):
                async with embedded_broker(f"127.0.0.1:{broker.port}", tmp_path):
                    pass
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(broker.host, broker.port)

    @pytest.mark.parametrize("listen", ["1883", "127.0.0.1:http", "127.0.0.1:70000", ""])
    async def test_an_address_is_host_and_port(self, listen: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'expected .mqtt. listen as "HOST:PORT"'):
            async with embedded_broker(listen, tmp_path):
                pass

    async def test_an_error_inside_comes_out_as_it_is(self, tmp_path: Path) -> None:
        with pytest.raises(PenstockError, match="no model"):
            async with embedded_broker("127.0.0.1:0", tmp_path):
                raise PenstockError("no model")
        assert not children(os.getpid(), "mosquitto")

    async def test_its_sessions_survive_the_gateways_end(self, tmp_path: Path) -> None:
        for present in (False, True):
            async with (
                embedded_broker("127.0.0.1:0", tmp_path) as broker,
                running(MqttLink(options(broker, session_expiry_s=600))) as owner,
            ):
                assert (await owner.until_up()).session_present == present

    async def test_it_is_started_again_when_it_ends(self, tmp_path: Path) -> None:
        async with (
            embedded_broker("127.0.0.1:0", tmp_path) as broker,
            running(MqttLink(options(broker, reconnect_max_s=0.2))) as owner,
        ):
            await owner.until_up()
            (child,) = children(os.getpid(), "mosquitto")
            os.kill(child, signal.SIGKILL)
            await owner.until_up(2)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without a name")
    async def test_a_user_without_a_name_may_run_it(self) -> None:
        """As in a container that runs under a uid of its own, with no USER and no line in /etc/passwd."""
        code = (
            "import asyncio, os, tempfile; from pathlib import Path\n"
            "from penstock_gateway.embedded import embedded_broker\n"
            "async def main(folder):\n"
            "    async with embedded_broker('127.0.0.1:0', Path(folder)) as broker:\n"
            "        await asyncio.open_connection(broker.host, broker.port)\n"
            "os.setgid(54321); os.setuid(54321)\n"
            "with tempfile.TemporaryDirectory() as folder:\n"
            "    asyncio.run(main(folder))\n"
        )
        names = ("LOGNAME", "USER", "LNAME", "USERNAME")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        gateway = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=environment)
        assert await asyncio.wait_for(gateway.wait(), 20) == 0

    async def test_a_killed_gateway_takes_it_along(self, tmp_path: Path) -> None:
        code = (
            "import asyncio, sys; from pathlib import Path\n"
            "from penstock_gateway.embedded import embedded_broker\n"
            "async def main():\n"
            "    async with embedded_broker('127.0.0.1:0', Path(sys.argv[1])) as broker:\n"
            "        print(broker.port, flush=True); await asyncio.Event().wait()\n"
            "asyncio.run(main())\n"
        )
        gateway = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert gateway.stdout is not None
        port = int(await gateway.stdout.readline())
        gateway.kill()
        await gateway.wait()
        async with asyncio.timeout(5):
            with contextlib.suppress(OSError):
                while True:  # each try waits on the broker until it is gone
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    await reader.read()
                    writer.close()


def children(parent: int, name: str) -> list[int]:
    """Processes of this name whose parent is `parent`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            left, _, right = status.read_text().rpartition(")")
            if left.endswith(f"({name}") and int(right.split()[1]) == parent:
                found.append(int(status.parent.name))
    return found


class TestProbes:
    @pytest.mark.parametrize(("protocol", "expiry_s"), [(5, 60), (4, None)])
    async def test_asking_shows_what_is_granted_and_leaves_no_session(
        self, protocol: int, expiry_s: int | None
    ) -> None:
        async with mosquitto() as broker:
            granted = await ask(options(broker, protocol=protocol, session_expiry_s=60))
            assert (granted.protocol, granted.session_expiry_s) == (protocol, expiry_s)
            await asyncio.to_thread(broker.restart)  # a session that was left behind would be read back
            assert "penstock-probe" not in (broker.folder / "mosquitto.db").read_bytes().decode("latin-1")

    async def test_asking_finds_a_broker_of_3_1_1_only(self, free_port: Callable[[], int]) -> None:
        async with amqtt_broker("127.0.0.1", free_port()) as broker:
            assert (await ask(options(broker, connect_timeout_s=1))).protocol == 4

    @pytest.mark.parametrize("protocol", [4, 5])
    async def test_the_stock_broker_queues_a_thousand(self, protocol: int) -> None:
        async with mosquitto() as broker:
            found = await probe_queue(options(broker, protocol=protocol), 1500, "probe/q")
            assert 1000 <= found < 1100
            await asyncio.to_thread(broker.restart)  # a session that was left behind would be read back
            assert "penstock-probe" not in (broker.folder / "mosquitto.db").read_bytes().decode("latin-1")

    async def test_a_roomy_broker_queues_all(self) -> None:
        async with mosquitto("max_queued_messages 100000") as broker:
            assert await probe_queue(options(broker), 1500, "probe/q") == 1500

    async def test_a_refused_probe_says_so(self, tmp_path: Path) -> None:
        acl = tmp_path / "acl"
        acl.write_text("topic read #\n")
        async with mosquitto(f"acl_file {acl}") as broker:
            with pytest.raises(PenstockError, match=r"refused to take messages on probe/q: .'0x87'"):
                await probe_queue(options(broker), 10, "probe/q")

    async def test_nobody_there(self) -> None:
        with pytest.raises(PenstockError, match=r"no connection to 127\.0\.0\.1:1"):
            await probe_queue(LinkOptions("127.0.0.1", 1, "c", reconnect_min_s=0.01), 10, "t")

    @pytest.mark.parametrize("n", [0, -1, 10_000_000])
    async def test_a_silly_number_is_refused(self, n: int) -> None:
        with pytest.raises(PenstockError, match="1 to 1000000"):
            await probe_queue(LinkOptions("127.0.0.1", 1, "c"), n, "t")

    @pytest.mark.parametrize("protocol", [4, 5])
    async def test_a_broker_without_rules_is_open(self, protocol: int) -> None:
        async with mosquitto() as broker:
            given = options(broker, protocol=protocol)
            assert await probe_foreign_publish(given, ["dev/x/data", "y"]) == ["dev/x/data", "y"]

    @pytest.mark.parametrize("protocol", [4, 5])
    @pytest.mark.parametrize(
        ("anonymous", "found"),
        [
            ("topic write dev/#", ["dev/x/data", "dev/x/status"]),
            ("topic write dev/+/data", ["dev/x/data"]),
            ("", []),
        ],
    )
    async def test_a_broker_with_rules_is_what_they_are(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        anonymous: str,
        found: list[str],
        protocol: int,
    ) -> None:
        monkeypatch.setattr(
            broker_check, "_QUIET_S", 0.7
        )  # a broker on this machine brings it in milliseconds
        acl = tmp_path / "acl"
        acl.write_text(f"{anonymous}\nuser gateway\ntopic read dev/#\n")
        assert await self.open_topics(tmp_path, acl, protocol) == found

    async def test_what_nobody_may_read_is_told_by_the_brokers_answer(self, tmp_path: Path) -> None:
        acl = tmp_path / "acl"
        acl.write_text("topic write dev/#\nuser gateway\ntopic read dev/+/data\n")
        assert await self.open_topics(tmp_path, acl, 5) == ["dev/x/data", "dev/x/status"]

    async def open_topics(self, folder: Path, acl: Path, protocol: int) -> list[str]:
        words = password_file(folder)
        async with mosquitto(f"allow_anonymous true\npassword_file {words}\nacl_file {acl}") as broker:
            given = options(broker, username="gateway", password="secret", protocol=protocol)
            return await probe_foreign_publish(given, ["dev/x/data", "dev/x/status"])

    async def test_strangers_who_are_not_let_in_publish_nothing(self, tmp_path: Path) -> None:
        words, acl = password_file(tmp_path), tmp_path / "acl"
        acl.write_text("user gateway\ntopic read #\n")
        async with mosquitto(f"allow_anonymous false\npassword_file {words}\nacl_file {acl}") as broker:
            given = options(broker, username="gateway", password="secret")
            assert await probe_foreign_publish(given, ["dev/x/data"]) == []

    async def test_asking_takes_no_frame_from_a_shared_subscription(self) -> None:
        async with mosquitto() as broker:
            shared = (("$share/home/t", 1),)
            async with running(MqttLink(options(broker, subscriptions=shared))) as owner:
                await owner.until_up()
                asking = asyncio.create_task(ask(options(broker, subscriptions=shared, session_expiry_s=60)))
                sent = [str(n).encode() for n in range(200)]
                link = MqttLink(options(broker, client_id="device", subscriptions=()))
                async with running(link) as device:
                    await device.until_up()
                    for payload in sent:
                        link.publish(Publish("t", payload, 1))
                        await asyncio.sleep(0)
                    assert (await asking).refused == ()
                    await owner.until(lambda: owner.payloads == sent)
