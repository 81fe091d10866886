"""The daemon itself, as its own client and as any gRPC tool sees it."""

import asyncio

import grpc
from client import SOCKET, Case, admin
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from isol8.v1.admin_pb2_grpc import AdminServiceStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


class Daemon(Case):
    async def test_the_daemon_tells_about_itself(self):
        before = await self.status()
        run = await self.run_it("print(1)")
        after = await self.status()
        self.assertEqual(after.runs_total, before.runs_total + 1)
        self.assertEqual(after.socket, SOCKET)
        self.assertEqual(after.runs_in_flight, 0)
        self.assertGreater(after.pid, 0)
        [chosen] = [engine for engine in after.engines if engine.chosen]
        self.assertTrue(chosen.healthy, chosen)
        metadata = dict(run.call.initial_metadata())
        self.assertEqual(metadata["isol8-version"], after.version)
        # Whatever a library says that the daemon is called.
        for name in (SOCKET, SOCKET.replace("/", "%2F"), "localhost:80"):
            options = [("grpc.default_authority", name)]
            async with grpc.aio.insecure_channel(f"unix:{SOCKET}", options) as channel:
                told = await AdminServiceStub(channel).Status(admin.StatusRequest())
                self.assertEqual(told.pid, after.pid)
        doctor = await self.admin.Doctor(admin.DoctorRequest())
        self.assertTrue(doctor.checks)

    async def test_health_and_reflection_answer(self):
        health = HealthStub(self.channel)
        for service in ("", "isol8.v1.RunService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)

        def reflected():
            # This one is not asyncio's.
            with grpc.insecure_channel(f"unix:{SOCKET}") as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                file = database.FindFileContainingSymbol("isol8.v1.Start")
                return set(database.get_services()), {it.name for it in file.message_type}

        services, messages = await asyncio.to_thread(reflected)
        for service in ("Run", "Session", "Image", "Admin"):
            self.assertIn(f"isol8.v1.{service}Service", services)
        self.assertIn("Exited", messages)
