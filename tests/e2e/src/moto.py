"""moto, an S3 server, for tests of object lock.

It differs from moto's own program in three things. It answers one request after the other, so that of two creates one is the first. Its time is ahead by the seconds in the file that is named first, so that locks can
end. And AWS takes any checksum of an object in a bucket with a default retention, where moto insists on the header that names its kind.
"""

import datetime
import pathlib
import sys
import threading

import moto.s3.models
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

ahead = pathlib.Path(sys.argv[1])
real_time = moto.s3.models.utcnow
moto.s3.models.utcnow = lambda: real_time() + datetime.timedelta(seconds=int(ahead.read_text()))
application = DomainDispatcherApplication(create_backend_app)
one_at_a_time = threading.Lock()


def as_aws(environment, start_response):
    if "HTTP_X_AMZ_CHECKSUM_SHA256" in environment:
        environment["HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM"] = "SHA256"
    with one_at_a_time:
        return application(environment, start_response)


run_simple(sys.argv[2], 0, as_aws, threaded=True, request_handler=MotoRequestHandler)
