"""moto, a server of EC2 and EBS direct, for a test of the adapter.

It differs from moto's own program in one thing: blocks have 512 KiB, as EBS's have, where moto says 512 bytes.
"""

from moto.ebs.models import EBSSnapshot
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

EBSSnapshot.block_size = property(lambda _: 512 << 10, lambda _, what_moto_says: None)
application = DomainDispatcherApplication(create_backend_app)
run_simple("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
